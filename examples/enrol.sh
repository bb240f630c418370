#!/bin/sh
# Has this device's own key signed, once, by a token that an operator made (`pisync devices enrol-token`).
#
#     enrol.sh PB-000123 https://pisync.example.org TOKEN_FILE /etc/pisync [CA_FILE]
#
# The key is made here and goes nowhere. Makes DIRECTORY/ID.key and DIRECTORY/ID.pem; may be run again at any time:
# it goes on where it was interrupted, and does nothing once the certificate is there. CA_FILE is whom to trust for
# the address; without it, whom the system trusts. TOKEN_FILE is what `enrol-token` wrote, or the token alone. Ends
# with 0 once the certificate is there; 1: try again later; 2: not without an operator, most often for a new token.
set -eu
umask 077

[ $# -ge 4 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 64; }
id=$1 api=${2%/} token_file=$3 directory=$4 ca_file=${5:-}
key=$directory/$id.key certificate=$directory/$id.pem work=$directory/.enrol.$$

[ ! -s "$certificate" ] || exit 0
mkdir -p "$directory" "$work"
trap 'rm -rf "$work"' EXIT

if [ ! -s "$key" ]; then
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$work/key" 2>"$work/why" || {
        cat "$work/why" >&2
        exit 1
    }
    sync "$work/key" 2>/dev/null || sync
    mv "$work/key" "$key"
fi
openssl req -new -key "$key" -subj "/CN=$id" -out "$work/request"
# In a file: what stands in a command line, every user of the machine can read.
token=$(sed -n -e "s/^$id,//p" -e '/,/!p' "$token_file" | tail -n 1)
printf 'Authorization: Bearer %s\n' "$token" >"$work/header"

status=$(curl --silent --show-error --max-time 60 ${ca_file:+--cacert "$ca_file"} \
    --header "@$work/header" --header 'Content-Type: application/x-pem-file' \
    --data-binary "@$work/request" --output "$work/answer" --write-out '%{http_code}' "$api/api/enrol") || exit 1
case $status in
    200) ;;
    401 | 404 | 422) cat "$work/answer" >&2; exit 2 ;;
    *) cat "$work/answer" >&2; exit 1 ;;
esac
openssl x509 -in "$work/answer" -noout -pubkey >"$work/signed"
openssl pkey -in "$key" -pubout >"$work/own"
cmp -s "$work/signed" "$work/own" || { echo "the certificate is not for this key" >&2; exit 2; }
sync "$work/answer" 2>/dev/null || sync
mv "$work/answer" "$certificate"
