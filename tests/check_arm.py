"""Compare the kernels of 64-bit Arm with those of this machine, bit for bit: compiled across, run under qemu.

Run by `make arm`, on Debian after `apt install gcc-aarch64-linux-gnu qemu-user-static`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from test_vectorised import ROOT, build_tables

CROSS, QEMU = "aarch64-linux-gnu-gcc", "qemu-aarch64-static"


def built(compiler: str, isas: dict[str, list[str]], folder: Path) -> Path:
    """The program of arm.c with the kernels of these instruction sets, by the flags of setup.py."""
    tables = build_tables()
    common = [compiler, "-I", str(ROOT / "src_c"), *tables["C_FLAGS"]]
    program = folder / compiler
    compile_, objects = [], []
    for isa, flags in isas.items():
        for real in tables["REALS"]:
            for source in tables["KERNELS"]:
                objects.append(folder / f"{compiler}-{Path(source).stem}-{real}-{isa}.o")
                macros = [f"-DREAL_{real}", f"-DISA={isa}"]
                compile_.append([*common, *tables["KERNEL_FLAGS"], *flags, *macros, "-c", str(ROOT / source)])
    for command, made in zip(compile_, objects, strict=True):
        subprocess.run([*command, "-o", str(made)], check=True)
    sources = [str(ROOT / "src_c/dispatch.c"), str(ROOT / "tests/arm.c")]
    which = [f"-DFO_BUILT_{isa}" for isa in isas]
    subprocess.run(
        [*common, "-O1", "-ffp-contract=off", *which, "-static", *sources, *map(str, objects), "-o", str(program)],
        check=True,
    )
    return program


def lines(command: list[str]) -> dict[str, str]:
    """By rule, type and kind of decay, how many numbers came out and their hash; the same on every instruction set."""
    found: dict[str, str] = {}
    for line in subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines():
        rule, real, kind, *rest, isa = line.split()
        name, value = f"{rule} {real} {kind}", " ".join(rest)
        if found.setdefault(name, value) != value:
            sys.exit(f"{name}: {isa} differs from the instruction set before it")
    return found


def main() -> None:
    missing = [program for program in (CROSS, QEMU) if not shutil.which(program)]
    if missing:
        sys.exit(f"needs {' and '.join(missing)}: apt install gcc-aarch64-linux-gnu qemu-user-static")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        here = lines([str(built("gcc", build_tables()["ISAS"], folder))])
        arm = lines([QEMU, str(built(CROSS, {"baseline": []}, folder))])
    different = [name for name in here if here[name] != arm.get(name)]
    total = sum(int(value.split()[0]) for value in arm.values())
    if different or here.keys() != arm.keys():
        sys.exit(f"other bits on Arm: {', '.join(different) or 'other rules'}")
    print(f"{len(arm)} kernels, {total:,} numbers: the same bits on 64-bit Arm as here")


if __name__ == "__main__":
    main()
