#!/usr/bin/env bash
# Installs PostgreSQL, against which crates/postgres and the tool are tested, where Debian's packages are at hand.
#
# If it cannot be installed, this script and the tests print NOT TESTED; with ALLUVIUM_REQUIRE_STORES=1 the script fails.
set -euo pipefail

compgen -G "/usr/lib/postgresql/*/bin/postgres" >/dev/null && exit
if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ] &&
  apt-get install --yes --quiet --no-install-recommends postgresql >/tmp/alluvium-postgresql.log 2>&1; then
  exit
fi
echo "NOT TESTED: a real PostgreSQL server: it is absent (Debian: apt-get install postgresql)"
[ "${ALLUVIUM_REQUIRE_STORES:-0}" != 1 ]
