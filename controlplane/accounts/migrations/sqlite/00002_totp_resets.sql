-- +goose Up
CREATE TABLE account_totp (
  account_id INTEGER PRIMARY KEY,
  secret     TEXT    NOT NULL,
  enabled    INTEGER NOT NULL,
  last_step  BIGINT  NOT NULL,
  last_nonce BLOB
);
CREATE TABLE account_recovery (
  account_id INTEGER NOT NULL,
  code_hash  BLOB    NOT NULL,
  PRIMARY KEY (account_id, code_hash)
);
CREATE TABLE account_resets (
  account_id INTEGER PRIMARY KEY,
  nonce      BLOB    NOT NULL,
  created_ms BIGINT  NOT NULL
);

-- +goose Down
DROP TABLE account_resets;
DROP TABLE account_recovery;
DROP TABLE account_totp;
