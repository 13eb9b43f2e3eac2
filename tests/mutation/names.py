"""mutmut's names of the faults that it plants: `file.xǁClassǁmethod__mutmut_7`, `file.x_name__mutmut_7`."""

from __future__ import annotations


def function_of(name: str) -> str:
    """`Class.method`, or `name`."""
    mangled = name.rpartition(".")[2].rpartition("__mutmut_")[0]
    return mangled.removeprefix("xǁ").replace("ǁ", ".") if mangled.startswith("xǁ") else mangled.removeprefix("x_")
