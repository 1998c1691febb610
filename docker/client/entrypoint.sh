#!/bin/sh
# Starts certdeploy-client with the container's arguments; CERTDEPLOY_CLIENT_DAEMON=true makes it the daemon.
set -eu

# As the container's first process nobody else takes in orphans (scripts that start something leave some), and signals
# must get through: tini does both. With `docker run --init` somebody does already.
run() {
    [ $$ -ne 1 ] || exec tini -- "$@"
    exec "$@"
}

case ${1:-} in
    certdeploy-client | sh | /bin/sh) run "$@" ;;
esac

config=${CERTDEPLOY_CLIENT_CONFIG:-/etc/certdeploy/client.yml}
if [ $# -eq 0 ] && [ ! -e "$config" ]; then
    echo "entrypoint.sh: there is no $config: mount a directory that has one, as in" >&2
    echo "  docker run -v \"\$PWD/conf:/etc/certdeploy\" -v shared_certs:/certdeploy/certs certdeploy-client" >&2
    echo "An example is /usr/share/doc/certdeploy-client/examples/client.yml in this image." >&2
    exit 1
fi
run certdeploy-client "$@"
