/**
 * A certificate for localhost and 127.0.0.1, valid from 2020 to 2120, for tests of https.
 *
 * It is in the repository because Node cannot make one and not every machine has openssl. The key is
 * public by that and protects nothing: trust it in a test's own client, never in a system's store.
 */
export const LOCALHOST_CERTIFICATE = {
  key: `-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgMk3juRqGWMGVf7CZ
Ypye83/R/i9f+KrNRFbP8jXauMGhRANCAARIpydMEtinNgGYeRIXKXfjMZmLKG+T
wQlEfsw6GFUytLiiS5vAg2hV3Li2awpyJpXybW7J185z/0rLz7nXZ78U
-----END PRIVATE KEY-----`,
  cert: `-----BEGIN CERTIFICATE-----
MIIBaDCCAQ6gAwIBAgICEAAwCgYIKoZIzj0EAwIwFDESMBAGA1UEAwwJbG9jYWxo
b3N0MCAXDTIwMDEwMTAwMDAwMFoYDzIxMjAwMTAxMDAwMDAwWjAUMRIwEAYDVQQD
DAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARIpydMEtinNgGY
eRIXKXfjMZmLKG+TwQlEfsw6GFUytLiiS5vAg2hV3Li2awpyJpXybW7J185z/0rL
z7nXZ78Uo04wTDAPBgNVHRMBAf8EBTADAQH/MBoGA1UdEQQTMBGCCWxvY2FsaG9z
dIcEfwAAATAdBgNVHQ4EFgQUBzgzgz3t5crmVscbmSOz2i5QehQwCgYIKoZIzj0E
AwIDSAAwRQIhAPtBe8QjcDrrRo4g6A5o1Sxoi28UF83g+QIC6XZxm9L4AiAyc+Zl
xmzx6i7tgegX4awipfClG4TBcRTsfv1Ct9YPtg==
-----END CERTIFICATE-----`,
}
