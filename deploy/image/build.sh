#!/usr/bin/env bash
# Build the OCI image of the server processes: no daemon, no registry of images.
#
#   deploy/image/build.sh FOLDER [SOURCES]
#
# FOLDER gets `oci`, an OCI image layout whose tag is the version of the project, and `sbom.cdx.json`, its SBOM.
# SOURCES is a file with apt's sources of Debian trixie; default: the mirror that mmdebstrap knows.
# Needs .venv with the test packages, root, and Debian's buildah, netavark and mmdebstrap (scripts/setup.sh installs them).
set -euo pipefail
cd "$(dirname "$0")/../.."

folder="${1:?give a folder for the image}"
sources="${2:-}"
venv="$PWD/.venv"
mkdir -p "$folder"
folder="$(cd "$folder" && pwd)"
work="$(mktemp -d "$folder/work.XXXXXX")"
builder() {
    local command="$1"
    shift
    buildah --root "$work/storage" --runroot "$work/run" --storage-driver overlay \
        --registries-conf "$work/registries.conf" "$command" "$@"
}
clean_up() {
    builder umount --all >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap clean_up EXIT
# Everything is local, so no policy of signatures and no registry applies.
printf '%s\n' '{"default": [{"type": "insecureAcceptAnything"}]}' >"$work/policy.json"
: >"$work/registries.conf"

version="$("$venv/bin/python" -c 'import tomllib; print(tomllib.load(open("pyproject.toml", "rb"))["project"]["version"])')"
machine="$(uname -m)"
# Files and SBOM get the time of the commit, not of the build.
SOURCE_DATE_EPOCH="$(git log -1 --format=%ct)"
export SOURCE_DATE_EPOCH

# The context has only what the image needs. The lock's hashes verify the packages; the interpreter is that of trixie.
context="$work/context"
mkdir "$context"
install_packages() {
    "$venv/bin/uv" pip install --quiet --no-config --python "$venv/bin/python" --python-version 3.13 \
        --python-platform "$machine-manylinux_2_34" --only-binary :all: --no-deps --target "$context/site-packages" "$@"
}
install_packages --require-hashes --requirement requirements/production.lock
# A copy without ignored files: setuptools would take modules of an earlier build from its folder `build`.
mkdir "$work/source"
git ls-files -z --cached --others --exclude-standard | tar --create --null --files-from=- | tar --extract -C "$work/source"
"$venv/bin/pip" wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index \
    --wheel-dir "$work/wheels" "$work/source/client" "$work/source"
install_packages --no-index "$work"/wheels/*.whl
# Commands of the libraries, with the path of the interpreter of this host, uv's lock, and the addresses of local files.
rm -rf "$context/site-packages/bin" "$context/site-packages/.lock"
find "$context/site-packages" \( -name direct_url.json -o -name uv_cache.json \) -delete
find "$context/site-packages" -type d -name tests -prune -exec rm -rf {} +
printf '#!/opt/openkcm/bin/python\nfrom cli.__main__ import entry\n\nentry()\n' >"$context/openkcmctl"

mmdebstrap --quiet --variant=minbase --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    trixie "$work/base.tar" ${sources:+"$sources"}

base="$(builder from scratch)"
builder add --quiet "$base" "$work/base.tar" / >/dev/null
builder commit --quiet --signature-policy "$work/policy.json" "$base" localhost/debian:trixie-slim >/dev/null
# The limits are those of this process: buildah raises them otherwise, which a container may not.
builder build --quiet --isolation chroot --pull=never --signature-policy "$work/policy.json" \
    --ulimit "nofile=$(ulimit -Hn):$(ulimit -Hn)" --ulimit "nproc=$(ulimit -Hu):$(ulimit -Hu)" \
    --timestamp "$SOURCE_DATE_EPOCH" --label "org.opencontainers.image.title=openkcm" \
    --label "org.opencontainers.image.version=$version" --label "org.opencontainers.image.licenses=Apache-2.0" \
    --file deploy/image/Containerfile --tag "localhost/openkcm:$version" "$context" >/dev/null
rm -rf "$folder/oci" "$context" "$work/base.tar"
builder push --quiet --signature-policy "$work/policy.json" "localhost/openkcm:$version" "oci:$folder/oci:$version"

image="$(builder from --pull=never --signature-policy "$work/policy.json" "localhost/openkcm:$version")"
"$venv/bin/python" -m scripts.sbom "$(builder mount "$image")" "$version" >"$folder/sbom.cdx.json"
