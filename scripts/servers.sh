#!/bin/sh
# Install the servers that tests use, where they are missing and this user may. Never fails: a test skips when its server is absent,
# and says so.
set -u

missing=""
for server in redis-server rabbitmq-server; do
	command -v "$server" >/dev/null 2>&1 || test -x "/usr/sbin/$server" || missing="$missing $server"
done
test -n "$missing" || exit 0

as_root=""
if [ "$(id -u)" -ne 0 ]; then
	if sudo -n true 2>/dev/null; then
		as_root="sudo -n"
	else
		echo "not installed:$missing. Tests that need them are skipped; to run them: sudo apt-get install$missing" >&2
		exit 0
	fi
fi
if ! command -v apt-get >/dev/null 2>&1; then
	echo "not installed:$missing, and there is no apt-get here. Tests that need them are skipped." >&2
	exit 0
fi

echo "installing$missing"
$as_root apt-get update -qq || true
# Each on its own, so that one that cannot be had does not cost the other. They are only wanted as programs: the tests start their own.
for server in $missing; do
	$as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "$server" >/dev/null ||
		echo "$server could not be installed. Tests that need it are skipped." >&2
done
