"""The functions of posix.py or windows.py, whichever this system is."""

import sys

if sys.platform == "win32":
    from bnas_deploy.core import windows as _system
else:
    from bnas_deploy.core import posix as _system

address_space_limit = _system.address_space_limit
context_switches = _system.context_switches
create = _system.create
end_with_parent = _system.end_with_parent
ended_by = _system.ended_by
exchange = _system.exchange
glibc = _system.glibc
go_on = _system.go_on
is_mine = _system.is_mine
is_still = _system.is_still
load_average = _system.load_average
lock = _system.lock
make_folder = _system.make_folder
memory_bytes = _system.memory_bytes
open_to_lock = _system.open_to_lock
open_to_read = _system.open_to_read
peak_bytes = _system.peak_bytes
publish = _system.publish
replace = _system.replace
start_apart = _system.start_apart
stay_on_one_cpu = _system.stay_on_one_cpu
stop = _system.stop
sync = _system.sync
usable_cpus = _system.usable_cpus
