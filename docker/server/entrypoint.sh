#!/bin/sh
# Decides what the server's container runs: the daemon, unless the environment or the arguments say otherwise.
set -eu

program=/usr/local/bin/certdeploy-server
hook=/etc/letsencrypt/renewal-hooks/deploy/certdeploy-hook

# As the container's first process nobody else takes in orphans (certbot's plugins and hooks leave some), and signals
# must get through: tini does both. With `docker run --init` somebody does already.
run() {
    [ $$ -ne 1 ] || exec tini -- "$@"
    exec "$@"
}

# Made anew at each start, because /etc/letsencrypt is usually mounted. A file of the user's own is left alone.
if [ ! -e "$hook" ] || [ -L "$hook" ]; then
    { mkdir -p "${hook%/*}" && ln -sfn "$program" "$hook"; } ||
        echo "entrypoint.sh: $hook cannot be made; without it renewals are noticed only by comparing" >&2
fi

if [ "${CERTDEPLOY_SERVER_RENEW_ONLY:-}" = true ] || [ "${CERTDEPLOY_RENEW_ONLY:-}" = true ]; then
    run certdeploy-server --renew
fi
case ${1:-} in
    certdeploy-server | certbot | lexicon | sh | /bin/sh) run "$@" ;;
    ?*) run certbot "$@" ;;
esac

config=${CERTDEPLOY_SERVER_CONFIG:-/etc/certdeploy/server.yml}
if [ ! -e "$config" ]; then
    echo "entrypoint.sh: there is no $config: mount a directory that has one, as in" >&2
    echo "  docker run -v \"\$PWD/conf:/etc/certdeploy\" -v /etc/letsencrypt:/etc/letsencrypt certdeploy-server" >&2
    echo "An example is /usr/share/doc/certdeploy-server/examples/server.yml in this image." >&2
    exit 1
fi
# Not by `--daemon`, which is stronger than CERTDEPLOY_SERVER_PUSH_ONLY.
export CERTDEPLOY_SERVER_DAEMON=true
run certdeploy-server
