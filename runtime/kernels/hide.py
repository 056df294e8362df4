"""Object files whose functions are not to be seen outside of the library that they are linked into.

TVM marks every function as seen. For ELF runtime/ort/exports.map hides them again when they are linked. zig's linkers
for Windows and macOS have nothing like that, so there the mark itself is taken back.
"""

import struct

_COFF_X86_64 = b"\x64\x86"
_MACHO_64 = b"\xcf\xfa\xed\xfe"

_COFF_HEADER = struct.Struct("<HHIIIHH")  # machine, sections, time, symbols, their number, optional header, flags
_COFF_SECTION = struct.Struct("<8sIIIIIIHHI")  # name, size and address there, size and place here, and more
_MACHO_HEADER = struct.Struct("<IIIIIIII")  # magic, cpu and its variant, type, number and size of commands, flags, -
_MACHO_COMMAND = struct.Struct("<II")  # what it is, its size
_MACHO_SYMBOLS = struct.Struct("<IIII")  # of LC_SYMTAB: place and number of symbols, of their names
_MACHO_SYMBOL = struct.Struct("<IBBHQ")  # name, type, section, description, value

_LC_SYMTAB = 2
_SEEN, _OF_A_SECTION, _HIDDEN = 0x01, 0x0E, 0x10  # bits of a symbol's type: N_EXT, N_SECT, N_PEXT


def hidden(data: bytes) -> bytes:
    """Return the object file with its functions hidden; one of ELF as it is."""
    if data.startswith(_COFF_X86_64):
        return _without_exports(bytearray(data))
    if data.startswith(_MACHO_64):
        return _with_private_symbols(bytearray(data))
    return data


def _without_exports(data: bytearray) -> bytes:
    """Blank the section .drectve, in which the linker of Windows is told what to export."""
    _, sections, *_ = _COFF_HEADER.unpack_from(data)
    for i in range(sections):
        name, _, _, size, start, *_ = _COFF_SECTION.unpack_from(data, _COFF_HEADER.size + i * _COFF_SECTION.size)
        if name == b".drectve":
            data[start : start + size] = b" " * size
    return bytes(data)


def _with_private_symbols(data: bytearray) -> bytes:
    """Make what is seen outside of this object file seen inside of one library only."""
    commands, at = _MACHO_HEADER.unpack_from(data)[4], _MACHO_HEADER.size
    for _ in range(commands):
        kind, size = _MACHO_COMMAND.unpack_from(data, at)
        if kind == _LC_SYMTAB:
            first, count, *_ = _MACHO_SYMBOLS.unpack_from(data, at + _MACHO_COMMAND.size)
            for symbol in range(first, first + count * _MACHO_SYMBOL.size, _MACHO_SYMBOL.size):
                name, bits, *rest = _MACHO_SYMBOL.unpack_from(data, symbol)
                if bits & _SEEN and bits & _OF_A_SECTION == _OF_A_SECTION:
                    _MACHO_SYMBOL.pack_into(data, symbol, name, bits | _HIDDEN, *rest)
        at += size
    return bytes(data)
