"""Put the repository's address into what a release shows.

python .ci/address.py https://HOST/OWNER/NAME v1.2.3

The address is no part of the sources: the workflow that releases knows it. Adds [project.urls] and the citation's
repository-code, and makes the README's relative links absolute, which on the package index would lead nowhere.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path


def main(address: str, ref: str, root: Path = Path()) -> None:
    """Write the three files of the tree `root` anew; a tag must be that of the version."""
    address = address.rstrip("/")
    if not re.fullmatch(r"https://[\w.-]+/[\w.-]+/[\w.-]+", address):
        sys.exit(f"{address!r} is no https://HOST/OWNER/NAME")
    project = root / "pyproject.toml"
    text = project.read_text()
    (version,) = re.findall(r'^version = "(.*)"$', text, re.MULTILINE)
    if re.match(r"v\d", ref) and ref != f"v{version}":
        sys.exit(f"the tag is {ref}, and pyproject.toml has version {version}")
    tree = f"{address}/blob/{ref}"
    if "[project.urls]" not in text:
        urls = {
            "Repository": address,
            "Documentation": f"{tree}/docs/index.md",
            "Changelog": f"{tree}/CHANGELOG.md",
            "Issues": f"{address}/issues",
        }
        table = "\n".join(f'{name} = "{url}"' for name, url in urls.items())
        project.write_text(text.replace("[project.scripts]", f"[project.urls]\n{table}\n\n[project.scripts]"))
    citation = root / "CITATION.cff"
    if "repository-code" not in (text := citation.read_text()):
        citation.write_text(f'{text.rstrip()}\nrepository-code: "{address}"\n')
    readme = root / "README.md"
    raw = f"{address}/raw/{ref}"
    text = re.sub(r"(!\[[^\]]*\]\()(?![a-z]+:|#)", rf"\1{raw}/", readme.read_text())  # pictures
    readme.write_text(re.sub(r"(\]\()(?![a-z]+:|#)", rf"\1{tree}/", text))


if __name__ == "__main__":
    main(*sys.argv[1:])
