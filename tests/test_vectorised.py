"""Vectorised: the assembly of every kernel, for each instruction set and element type, works on full registers.

The kernels are compiled to assembly with the very flags of setup.py. For each operation that a rule writes (+ - * / and
a root), its kernels must have the packed instruction on registers of the set's full width; a loop the compiler gave up
on has only scalar ones. That the check can fail is checked with a build that is not vectorised.
"""

from __future__ import annotations

import ast
import os
import platform
import re
import shlex
import shutil
import subprocess
import sysconfig
from functools import lru_cache
from pathlib import Path

import pytest
from optimizers_table import chosen

ROOT = Path(__file__).parents[1]
COMPILER = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")

pytestmark = [
    pytest.mark.skipif(shutil.which(COMPILER[0]) is None, reason=f"needs a C compiler, and {COMPILER[0]!r} is none"),
    pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="reads the assembly of x86-64 only"),
    pytest.mark.skipif(not (ROOT / "src_c").is_dir(), reason="needs the sources beside the tests"),
]

REGISTERS = {"baseline": "xmm", "avx2": "ymm", "avx512": "zmm"}
SUFFIX = {"f32": "ps", "f64": "pd"}


@lru_cache
def build_tables():
    """The constants of setup.py, which cannot be imported without building: what stands before its first definition."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    first = next(i for i, node in enumerate(tree.body) if isinstance(node, (ast.FunctionDef, ast.ClassDef)))
    wanted = [node for node in tree.body[:first] if "setuptools" not in ast.dump(node)]
    found = {"__file__": str(ROOT / "setup.py")}
    exec(compile(ast.Module(wanted, []), "setup.py", "exec"), found)
    return found


if platform.machine() in ("x86_64", "AMD64") and (ROOT / "setup.py").exists():
    VARIANTS = [(isa, real) for isa in build_tables()["ISAS"] for real in build_tables()["REALS"]]
    VARIANTS = chosen([VARIANTS[0], VARIANTS[-1]], VARIANTS)  # the set with the fewest instructions, and the widest
else:
    VARIANTS = []


def rules():
    """Each rule's body, by its name."""
    text = re.sub(r"/\*.*?\*/", "", (ROOT / "src_c/rules.c").read_text(), flags=re.S)
    return dict(re.findall(r"^RULE\((\w+),.*?\)\n\{\n(.*?)^\}", text, flags=re.S | re.M))


def first_passes():
    """The body of each rule's first pass, by its name."""
    text = re.sub(r"/\*.*?\*/", "", (ROOT / "src_c/rules.c").read_text(), flags=re.S)
    return dict(re.findall(r"^SUMS(?:_OF_GRADIENTS)?\((\w+),.*?\)\n\{\n(.*?)^\}", text, flags=re.S | re.M))


def operations(body, kind):
    """The arithmetic that a kernel must do on full registers."""
    found = {"mul"} if "GRAD" in body or "*" in body else set()
    found |= {"sub"} if "DESCEND" in body or " - " in body else set()
    found |= {"add"} if " + " in body or (kind == "FO_COUPLED" and "GRAD" in body) else set()
    found |= {"div"} if " / " in body else set()
    found |= {"sqrt"} if "SQRT" in body else set()
    return found


@lru_cache
def functions(source, isa, real, *more):
    """The assembly of each function of a source; of aliases, jumps and parts split off, what they stand for."""
    tables = build_tables()
    flags = [*tables["C_FLAGS"], *tables["KERNEL_FLAGS"], *tables["ISAS"][isa], *more]
    command = [*COMPILER, "-S", "-o", "-", f"-DREAL_{real}", f"-DISA={isa}", "-I", str(ROOT / "src_c"), *flags]
    text = subprocess.run([*command, str(ROOT / source)], capture_output=True, text=True, check=True).stdout
    parts = re.split(r"^(\w+)(?:\.\w+)*:.*\n", text, flags=re.M)
    found: dict[str, str] = {}
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        found[name] = found.get(name, "") + body
    for alias, name in re.findall(r"\.set\s+(\w+),\s*(\w+)", text):
        found[alias] = found[name]
    for name, body in list(found.items()):  # one function for what came out the same
        found[name] = "".join([body, *(found.get(other, "") for other in re.findall(r"\bjmp\s+(\w+)$", body, re.M))])
    return found


def missing(isa, real, *more):
    """The operations, as "kernel: operation", that are not done on full registers."""
    found = functions("src_c/rules.c", isa, real, *more)
    lacking = []
    for rule, body in rules().items():
        register, suffix = REGISTERS[isa], SUFFIX[real]
        for kind in ("FO_NO_DECAY", "FO_COUPLED", "FO_DECOUPLED"):
            code = found[f"{rule}_{kind}"]
            wanted = operations(body, kind)
            if not wanted and not re.search(rf"\bmem(cpy|move)\b|\bv?mov[ua]p[sd]\b.*%{register}", code):
                lacking.append(f"{rule}_{kind}: move")
            for operation in wanted:
                if not re.search(rf"\bv?{operation}{suffix}\b.*%{register}", code):
                    lacking.append(f"{rule}_{kind}: {operation}")
    return lacking


@pytest.mark.parametrize(("isa", "real"), VARIANTS)
def test_every_kernel_of_every_rule_works_on_full_registers(isa, real):
    assert missing(isa, real) == []


@pytest.mark.parametrize(("isa", "real"), VARIANTS)
def test_the_sums_over_gradients_work_on_full_registers(isa, real):
    found = functions("src_c/sums.c", isa, real)
    register = REGISTERS[isa]
    assert re.search(rf"\bv?mulpd\b.*%{register}", found["sum_squares"])
    assert re.search(rf"\bv?addpd\b.*%{register}", found["sum_squares"])
    assert re.search(rf"\bv?por[dq]?\b.*%{register}", found["nonfinite"])


@pytest.mark.parametrize(("isa", "real"), VARIANTS)
def test_first_passes_work_on_full_registers(isa, real):
    found = functions("src_c/rules.c", isa, real)
    register, suffix = REGISTERS[isa], SUFFIX[real]
    assert len(first_passes()) > 5
    for rule, body in first_passes().items():
        for kind in ("FO_NO_DECAY", "FO_COUPLED", "FO_DECOUPLED"):
            code = found[f"{rule}_sums_{kind}"]
            assert re.search(rf"\bv?addpd\b.*%{register}", code), f"{rule}_{kind}: add"
            for operation in operations(body, kind) - {"add", "sub"}:
                packed = rf"\bv?{operation}({suffix}|pd)\b.*%{register}"
                assert re.search(packed, code), f"{rule}_{kind}: {operation}"


@pytest.mark.parametrize(("isa", "real"), VARIANTS[:: chosen(2, 4)])
def test_scalar_loops_would_be_noticed(isa, real):
    kernels = {f"{rule}_{kind}" for rule in rules() for kind in ("FO_NO_DECAY", "FO_COUPLED", "FO_DECOUPLED")}
    noticed = {line.split(":")[0] for line in missing(isa, real, "-fno-tree-vectorize")}
    assert noticed >= {kernel for kernel in kernels if not kernel.startswith("restore")}


def test_no_flag_changes_the_bits():
    tables = build_tables()
    flags = [*tables["C_FLAGS"], *tables["KERNEL_FLAGS"], *(flag for isa in tables["ISAS"].values() for flag in isa)]
    assert "-ffp-contract=off" in flags
    unsafe = {"-ffast-math", "-Ofast", "-march=native", "-funsafe-math-optimizations", "-fassociative-math"}
    assert not unsafe & set(flags)


@pytest.mark.parametrize(("isa", "real"), VARIANTS)
def test_no_kernel_fuses_a_multiplication_with_an_addition(isa, real):
    for source in build_tables()["KERNELS"]:
        assert not re.search(r"\bvfn?m(add|sub)", "".join(functions(source, isa, real).values()))
