"""Build fastopt: the C kernels once per element type and instruction set, then the Cython modules.

Everything that varies is data in the tables below. Build knobs, all environment variables:

FASTOPT_ISAS      comma-separated instruction sets to build, out of the table below (default: all this compiler can)
FASTOPT_DEBUG     1: no optimisation, debug symbols, Cython bounds checks
FASTOPT_SANITIZE  -fsanitize= list, e.g. ``address,undefined`` (see ``make sanitize``)
FASTOPT_WERROR    1: compiler warnings are errors (used by ``make lint``)
"""

import os
import platform
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError, PlatformError

HERE = Path(__file__).parent
KERNELS = ["src_c/rules.c", "src_c/sums.c"]  # compiled once per real type and instruction set
HEADERS = ["src_c/fastopt.h", "src_c/rule.h"]
ENGINE = [
    "kernels", "numbers", "arrays", "lock", "chunks", "sweep", "factored", "coefficients", "rows", "leaves", "state",
    "groups", "plan", "lookahead", "parts", "restore", "dlpack",
]  # fmt: skip
REALS = ["f32", "f64"]
ISAS = {"baseline": []}
if platform.machine().lower() in ("x86_64", "amd64"):
    ISAS["avx2"] = ["-march=x86-64-v3"]
    ISAS["avx512"] = ["-march=x86-64-v4", "-mprefer-vector-width=512"]

C_FLAGS = ["-std=gnu11", "-fvisibility=hidden"]
# Vectorised without changing a bit: no FMA contraction, no reassociation; errno and traps are nobody's business here.
KERNEL_FLAGS = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"]
WARNINGS = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror"]
DIRECTIVES = {"language_level": 3, "wraparound": False, "cdivision": True, "initializedcheck": False}
# What Cython generates is not ours to keep tidy to the last sign.
ENGINE_WARNINGS = ["-Wall", "-Werror", "-Wno-unused-function"]


Job = tuple[list[str], str, list[tuple[str, Any]], list[str]]  # sources, folder for objects, macros, flags


def knob(name: str) -> str:
    """The value of one build knob, empty where it is unset or 0."""
    value = os.environ.get(f"FASTOPT_{name}", "").strip()
    return "" if value == "0" else value


class BuildExt(build_ext):
    """Compiles the kernel variants and links their objects into one module."""

    def compiles(self, flags: list[str], link: bool = False) -> bool:
        """Whether the compiler (and linker) takes these flags."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.c")
            source.write_text("int main(void) { return 0; }\n")
            try:
                objects = self.compiler.compile([str(source)], output_dir=folder, extra_postargs=["-Werror", *flags])
                if link:
                    self.compiler.link_executable(objects, "probe", output_dir=folder, extra_postargs=flags)
            except (CompileError, LinkError):
                return False
        return True

    def isas(self) -> list[str]:
        """The instruction sets to build: those asked for, or all the compiler can."""
        asked = [isa.strip() for isa in knob("ISAS").split(",") if isa.strip()]
        able = [isa for isa, flags in ISAS.items() if self.compiles(flags)]
        for isa in asked:
            if isa not in able:
                raise PlatformError(f"FASTOPT_ISAS: {isa!r} is none of {', '.join(able)}, which can be built here")
        return ["baseline", *(isa for isa in asked or able if isa != "baseline")]

    def build_extensions(self) -> None:
        import numpy

        self.common = [*C_FLAGS]
        self.links = [] if knob("DEBUG") or knob("SANITIZE") else ["-Wl,-s"] * self.compiles(["-Wl,-s"], link=True)
        if knob("DEBUG"):
            self.common += ["-g", "-O0", "-UNDEBUG"]
        if sanitizers := knob("SANITIZE"):
            self.common += [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g"]
            self.links += [f"-fsanitize={sanitizers}"]
        self.openmp = ["-fopenmp"] if self.compiles(["-fopenmp"], link=True) else []
        if not self.openmp:
            self.warn("this compiler has no OpenMP: fastopt will run serially")
        for ext in self.extensions:
            ext.include_dirs += ["src_c", numpy.get_include()]
            ext.define_macros += [("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")]
            ext.cython_directives = {**DIRECTIVES, "boundscheck": bool(knob("DEBUG"))}
        self.cython_c_in_temp = True  # generated C never lies in the tree
        self.force = True  # a knob may have changed where no file has
        self.parallel = self.parallel or os.cpu_count()
        super().build_extensions()

    def kernel_objects(self) -> list[str]:
        """Compile the C sources: the kernels for each variant, the dispatch once."""
        common = [*self.common, *(WARNINGS if knob("WERROR") else [])]
        kernel_flags = KERNEL_FLAGS if not knob("DEBUG") else [*KERNEL_FLAGS, "-O0"]

        def compiled(job: Job) -> list[str]:
            sources, folder, macros, flags = job
            return self.compiler.compile(
                sources,
                output_dir=str(Path(self.build_temp, folder)),
                macros=macros,
                include_dirs=["src_c"],
                extra_postargs=[*common, *flags],
                depends=HEADERS,
            )

        isas = self.isas()
        jobs: list[Job] = [(["src_c/dispatch.c"], "", [(f"FO_BUILT_{isa}", None) for isa in isas], [])]
        for isa in isas:
            for real in REALS:
                macros = [(f"REAL_{real}", None), ("ISA", isa)]
                jobs.append((KERNELS, f"{real}_{isa}", macros, [*kernel_flags, *ISAS[isa]]))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return [made for objects in pool.map(compiled, jobs) for made in objects]

    def build_extension(self, ext: Extension) -> None:
        openmp = self.openmp if ext.name == "fastopt.engine.sweep" else []
        if ext.name == "fastopt.engine.kernels":
            ext.extra_objects += self.kernel_objects()
        ext.extra_compile_args += [
            *self.common,
            "-ffp-contract=off",
            *openmp,
            *(ENGINE_WARNINGS if knob("WERROR") else []),
        ]
        ext.extra_link_args += [*self.links, *openmp]
        super().build_extension(ext)


if __name__ == "__main__":  # the tests import the tables above
    setup(
        ext_modules=[
            Extension(
                f"fastopt.engine.{room}",
                [f"fastopt/engine/{room}.pyx"],
                depends=[*HEADERS, *map(str, Path("fastopt/engine").glob("*.pxd"))],
            )
            for room in ENGINE
        ],
        cmdclass={"build_ext": BuildExt},
    )
