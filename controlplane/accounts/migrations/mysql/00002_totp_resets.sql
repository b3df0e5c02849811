-- +goose Up
CREATE TABLE account_totp (
  account_id BIGINT      NOT NULL PRIMARY KEY,
  secret     VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  enabled    TINYINT     NOT NULL,
  last_step  BIGINT      NOT NULL,
  last_nonce VARBINARY(64)
);
CREATE TABLE account_recovery (
  account_id BIGINT     NOT NULL,
  code_hash  BINARY(32) NOT NULL,
  PRIMARY KEY (account_id, code_hash)
);
CREATE TABLE account_resets (
  account_id BIGINT     NOT NULL PRIMARY KEY,
  nonce      BINARY(16) NOT NULL,
  created_ms BIGINT     NOT NULL
);

-- +goose Down
DROP TABLE account_resets;
DROP TABLE account_recovery;
DROP TABLE account_totp;
