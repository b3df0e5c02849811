#!/usr/bin/env bash
# Installs the Debian packages the tests need and the machine lacks: MariaDB,
# Redis and ffmpeg, as programs only. No service is started.
set -euo pipefail
missing=()
have() { command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ]; }
have mariadbd && have mariadb-install-db || missing+=(mariadb-server)
have redis-server || missing+=(redis-server)
have ffmpeg && have ffprobe || missing+=(ffmpeg)
[ ${#missing[@]} -gt 0 ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  printf 'missing: %s. Install them (as root: apt-get install --no-install-recommends %s) and run again.\n' "${missing[*]}" "${missing[*]}" >&2
  exit 1
fi
printf 'installing %s\n' "${missing[*]}"
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then # keeps the packages from starting services
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
  trap 'rm -f "$policy"' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get -q update && apt-get -q install -y --no-install-recommends "${missing[@]}"; } >&2; then
  printf 'installing %s failed: see above, install them by hand and run again\n' "${missing[*]}" >&2
  exit 1
fi
