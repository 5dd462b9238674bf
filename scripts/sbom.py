"""`python -m scripts.sbom ROOT VERSION`: print the SBOM of the image with this root file system (CycloneDX 1.6, JSON).

The components are Debian's packages by dpkg's list and Python's packages by their metadata: what is in the image, and
not what a lock file requested. SOURCE_DATE_EPOCH is its time, so two builds from the same packages print the same text.
"""

import os
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from email.parser import HeaderParser
from importlib.metadata import Distribution, distributions
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

_SITE = "opt/openkcm/lib/python*/site-packages"


def debian_packages(root: Path) -> Iterator[Component]:
    """Yield the installed packages of dpkg's list."""
    for entry in (root / "var/lib/dpkg/status").read_text(encoding="utf-8").strip().split("\n\n"):
        fields = HeaderParser().parsestr(entry)
        if fields["Status"] == "install ok installed":
            name, version = fields["Package"], fields["Version"]
            purl = PackageURL("deb", "debian", name, version, qualifiers={"arch": fields["Architecture"]})
            yield Component(name=name, version=version, type=ComponentType.LIBRARY, purl=purl, bom_ref=str(purl))


def python_packages(root: Path) -> Iterator[Component]:
    """Yield the Python packages with the licenses that their metadata states."""
    (site,) = root.glob(_SITE)
    for found in distributions(path=[str(site)]):
        name = re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower()  # the normalization of PEP 503
        purl = PackageURL("pypi", name=name, version=found.version)
        yield Component(
            name=name,
            version=found.version,
            type=ComponentType.LIBRARY,
            purl=purl,
            bom_ref=str(purl),
            licenses=licenses_of(found),
        )


def licenses_of(found: Distribution) -> list[DisjunctiveLicense | LicenseExpression]:
    """Return the license of a package: its SPDX expression, else the license field or its classifiers."""
    make = LicenseFactory()
    metadata = found.metadata.json
    if expression := metadata.get("license_expression"):
        return [make.make_from_string(str(expression))]
    text = str(metadata.get("license", ""))
    if text and "\n" not in text:
        return [make.make_with_name(text)]
    classifiers = found.metadata.get_all("Classifier") or []
    return [make.make_with_name(one.rpartition(" :: ")[2]) for one in classifiers if one.startswith("License :: ")]


def sbom(root: Path, version: str) -> str:
    """Return the SBOM of an image of this version."""
    components = [*debian_packages(root), *python_packages(root)]
    image = Component(name="openkcm", version=version, type=ComponentType.CONTAINER, bom_ref="image")
    content = " ".join(sorted(str(one.purl) for one in components))
    made = Bom(components=components, serial_number=uuid5(NAMESPACE_URL, content))
    made.metadata.component = image
    made.metadata.timestamp = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), UTC)
    made.register_dependency(image, components)
    return str(JsonV1Dot6(made).output_as_string(indent=2))


if __name__ == "__main__":
    print(sbom(Path(sys.argv[1]), sys.argv[2]))  # noqa: T201 - the result
