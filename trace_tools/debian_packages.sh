# Sourced by trace_tools/quickstart.sh and tests/run.sh: installs Debian packages, asking for nothing that is there.
# shellcheck shell=bash disable=SC2034

# What the programs are built from. Qt draws the report's figures.
program_packages=(g++ cmake ninja-build pkg-config ccache
  libhdf5-dev libeigen3-dev nlohmann-json3-dev libsentencepiece-dev libpcre2-dev libboost-program-options-dev
  qt6-base-dev qt6-svg-dev libqt6opengl6-dev fonts-dejavu-core)

# What the tests need besides.
test_packages=(libgtest-dev libgmock-dev clang-format-14 git python3 python3-h5py python3-numpy python3-venv)

# missing_packages NAME... prints those that are not installed.
missing_packages() {
  local name
  for name in "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || printf '%s\n' "$name"
  done
}

# install_packages NAME... as root or through sudo.
install_packages() {
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
      echo "These packages are missing and this user cannot install them (neither root nor sudo). As root, run:" >&2
      echo "  apt-get install --no-install-recommends $*" >&2
      return 1
    fi
    as_root=(sudo)
  fi
  local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300)
  # Package lists that are absent or out of date show as a failed install; only then are they fetched.
  if ! "${apt[@]}" install --no-install-recommends "$@" </dev/null; then
    "${apt[@]}" update </dev/null
    "${apt[@]}" install --no-install-recommends "$@" </dev/null
  fi
}

# require_debian_packages NAME... installs what is missing; the caller has said so before.
require_debian_packages() {
  local missing
  mapfile -t missing < <(missing_packages "$@")
  [ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"
}

# packages_sentence NAME... says what require_debian_packages would do.
packages_sentence() {
  local missing
  mapfile -t missing < <(missing_packages "$@")
  if [ ${#missing[@]} -eq 0 ]; then
    echo "install nothing: all Debian packages are here"
  elif [ "$(id -u)" -eq 0 ]; then
    echo "install ${#missing[@]} Debian packages: ${missing[*]}"
  else
    echo "install ${#missing[@]} Debian packages with sudo: ${missing[*]}"
  fi
}

# On a system without dpkg the libraries are the user's own business; CMake names those that it misses.
require_dpkg() {
  command -v dpkg-query >/dev/null || {
    echo "This script sets up Debian 12 (and its kin). Elsewhere: install the libraries of README.md, then use cmake --preset release." >&2
    return 1
  }
}
