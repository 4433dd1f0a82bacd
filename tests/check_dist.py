"""Check what an sdist and a wheel hold: everything needed, nothing generated. Run by `make dist`."""

import sys
import tarfile
import zipfile
from pathlib import Path

MOST = 2e6  # bytes of a wheel, also of one with OpenMP's library inside


def main(folder: str, repaired: str | None = None) -> None:
    (sdist,) = Path(folder).glob("*.tar.gz")
    (wheel,) = Path(repaired or folder).glob("*.whl")
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = {name for name in archive.namelist() if not name.startswith("fastopt.libs/")}

    needed = {path.as_posix() for path in Path("src_c").iterdir()} | {
        "setup.py", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "Makefile", "SECURITY.md",
        "CODE_OF_CONDUCT.md",
        "fastopt/engine/plan.pyx", "fastopt/engine/plan.pxd",
        "fastopt/engine/plan.pyi", "fastopt/py.typed", "tests/test_bits.py", "bench/workloads.py",
    }  # fmt: skip
    assert needed <= in_sdist, f"the sdist lacks {sorted(needed - in_sdist)}"
    generated = [name for name in in_sdist if name.endswith((".so", ".pyc", "plan.c")) or "/_build/" in name]
    assert not generated, f"the sdist holds generated files: {generated}"

    installed = {"fastopt/engine/plan.pyi", "fastopt/py.typed", "fastopt/optimizers/adam.py", "fastopt/cli/__init__.py"}
    assert installed <= in_wheel, f"the wheel lacks {sorted(installed - in_wheel)}"
    compiled = {name.partition(".")[0] for name in in_wheel if name.endswith(".so")}
    rooms = {path.with_suffix("").as_posix() for path in Path("fastopt/engine").glob("*.pyx")}
    assert compiled == rooms, f"the wheel holds {sorted(compiled)}: wanted {sorted(rooms)}"
    with zipfile.ZipFile(wheel) as archive:
        size = sum(info.file_size for info in archive.infolist() if info.filename.endswith(".so"))
    assert size < 5e6, f"the compiled modules are {size / 1e6:.1f} MB: they hold debug information"
    sources = [name for name in in_wheel if name.endswith((".pyx", ".c", ".h")) or name.startswith(("bench", "tests"))]
    assert not sources, f"the wheel holds {sources}"
    assert wheel.stat().st_size <= MOST, f"{wheel.name} has {wheel.stat().st_size} bytes: wanted at most {MOST:.0f}"
    print(f"{sdist.name}: {len(in_sdist)} files; {wheel.name}: {len(in_wheel)} files, {wheel.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
