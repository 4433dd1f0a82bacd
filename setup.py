"""Build fastopt: the C kernels once per element type and instruction set, then the one Cython module.

Everything that varies is data in the tables below. Build knobs, all environment variables:

FASTOPT_ISAS      comma-separated instruction sets to build, out of the table below (default: all this compiler can)
FASTOPT_DEBUG     1: no optimisation, debug symbols, Cython bounds checks
FASTOPT_SANITIZE  -fsanitize= list, e.g. ``address,undefined`` (see ``make sanitize``)
FASTOPT_WERROR    1: compiler warnings are errors (used by ``make lint``)
"""

import os
import platform
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError, PlatformError

HERE = Path(__file__).parent
KERNELS = ["src_c/rules.c", "src_c/sums.c"]  # compiled once per real type and instruction set
HEADERS = ["src_c/fastopt.h", "src_c/rule.h"]
REALS = ["f32", "f64"]
ISAS = {"baseline": []}
if platform.machine().lower() in ("x86_64", "amd64"):
    ISAS["avx2"] = ["-march=x86-64-v3"]
    ISAS["avx512"] = ["-march=x86-64-v4", "-mprefer-vector-width=512"]

C_FLAGS = ["-std=gnu11", "-fvisibility=hidden"]
# Vectorised without changing a bit: no FMA contraction, no reassociation; errno and traps are nobody's business here.
KERNEL_FLAGS = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"]
WARNINGS = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror"]
# What Cython generates is not ours to keep tidy to the last sign.
ENGINE_WARNINGS = ["-Wall", "-Werror", "-Wno-unused-function"]


def knob(name: str) -> str:
    """The value of one build knob, empty where it is unset or 0."""
    value = os.environ.get(f"FASTOPT_{name}", "").strip()
    return "" if value == "0" else value


class BuildExt(build_ext):
    """Compiles the kernel variants and links their objects into the one extension."""

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

    def build_extension(self, ext: Extension) -> None:
        import numpy

        common = [*C_FLAGS]
        kernel_flags = [*KERNEL_FLAGS]
        if knob("DEBUG"):
            common += ["-g", "-UNDEBUG"]
            kernel_flags += ["-O0"]
            ext.extra_compile_args += ["-O0"]
        if sanitizers := knob("SANITIZE"):
            common += [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g"]
            ext.extra_link_args += [f"-fsanitize={sanitizers}"]
        openmp = ["-fopenmp"] if self.compiles(["-fopenmp"], link=True) else []
        if not openmp:
            self.warn("this compiler has no OpenMP: fastopt will run serially")

        werror = bool(knob("WERROR"))
        isas = self.isas()
        for isa in isas:
            for real in REALS:
                ext.extra_objects += self.compiler.compile(
                    KERNELS,
                    output_dir=str(Path(self.build_temp, f"{real}_{isa}")),
                    macros=[(f"REAL_{real}", None), ("ISA", isa)],
                    include_dirs=["src_c"],
                    extra_postargs=[*common, *kernel_flags, *ISAS[isa], *(WARNINGS if werror else [])],
                    depends=HEADERS,
                )
        ext.extra_objects += self.compiler.compile(
            ["src_c/dispatch.c"],
            output_dir=self.build_temp,
            macros=[(f"FO_BUILT_{isa}", None) for isa in isas],
            include_dirs=["src_c"],
            extra_postargs=[*common, *(WARNINGS if werror else [])],
            depends=HEADERS,
        )

        ext.include_dirs += ["src_c", numpy.get_include()]
        ext.define_macros += [("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")]
        ext.extra_compile_args += [*common, "-ffp-contract=off", *openmp, *(ENGINE_WARNINGS if werror else [])]
        ext.extra_link_args += openmp
        ext.cython_directives = {"language_level": 3, "boundscheck": bool(knob("DEBUG"))}
        self.cython_c_in_temp = True  # generated C never lies in the tree
        self.force = True  # a knob may have changed where no file has
        super().build_extension(ext)


if __name__ == "__main__":  # the tests import the tables above
    setup(
        ext_modules=[
            Extension(
                "fastopt._engine",
                ["fastopt/_engine.pyx"],
                depends=[*KERNELS, *HEADERS, "src_c/dispatch.c"],
            )
        ],
        cmdclass={"build_ext": BuildExt},
    )
