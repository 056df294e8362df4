"""ONNX files without the package onnx, which a device does not have."""
