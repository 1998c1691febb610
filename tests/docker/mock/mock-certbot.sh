#!/bin/sh
# A certbot that renews nothing: it says that example.com was renewed and runs the deploy hook, so that settings can be
# tried without a certificate authority. Mount it, and give its path as `renew_exec`.
#
# MOCK_LETSENCRYPT is certbot's config directory, /etc/letsencrypt when it is not set.

directory=${MOCK_LETSENCRYPT:-/etc/letsencrypt}

if [ "$1" != renew ]; then
    echo "mock-certbot: it can only \`renew\`, not \`$1\`" >&2
    exit 255
fi

RENEWED_LINEAGE=$directory/live/example.com
RENEWED_DOMAINS="www.example.com example.com"
export RENEWED_LINEAGE RENEWED_DOMAINS

echo "TEST: the deploy hook for $RENEWED_LINEAGE"
if "$directory/renewal-hooks/deploy/certdeploy-hook" --log-level DEBUG; then
    echo "HOOK PASSED"
else
    echo "HOOK FAILED with $?"
fi
exit 0
