"""The kernels of the operator library, as TVM TIR that is lowered to plain-C objects when the package is built.

Nothing here runs on a device. specs.py is the table that everything loops over; docs/kernels.md explains the rest.
"""
