"""Check what an sdist and a wheel hold: everything needed, nothing generated. Run by `make dist`."""

import sys
import tarfile
import zipfile
from pathlib import Path


def main(folder: str) -> None:
    (sdist,) = Path(folder).glob("*.tar.gz")
    (wheel,) = Path(folder).glob("*.whl")
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = set(archive.namelist())

    needed = {path.as_posix() for path in Path("src_c").iterdir()} | {
        "setup.py", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "Makefile",
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
    print(f"{sdist.name}: {len(in_sdist)} files; {wheel.name}: {len(in_wheel)} files")


if __name__ == "__main__":
    main(sys.argv[1])
