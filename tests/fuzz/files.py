"""How schemathesis sends the bodies that are files: as the texts that they are."""

import schemathesis

schemathesis.serializer.alias(
    ["text/csv", "application/x-ndjson", "application/x-pem-file", "application/pkcs10"], "text/plain"
)
