# Joins a network with curl and wg-quick alone. To be set: API, KEY, NAME, INTERFACE.
umask 077
private=$(wg genkey)
public=$(printf '%s' "$private" | wg pubkey)
curl --fail-with-body --silent --show-error "$API/v1/enrol" \
  --header 'Content-Type: application/json' --header 'Accept: text/plain' \
  --data "{\"key\":\"$KEY\",\"name\":\"$NAME\",\"public_key\":\"$public\"}" > answer
# The private key never leaves this host: it is put into the file here.
while IFS= read -r line; do
  printf '%s\n' "$line"
  case $line in '[Interface]') printf 'PrivateKey = %s\n' "$private" ;; esac
done < answer > "$INTERFACE.conf"
rm answer
wg-quick up "./$INTERFACE.conf"
