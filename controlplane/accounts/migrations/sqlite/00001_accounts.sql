-- +goose Up
CREATE TABLE accounts (
  id            INTEGER PRIMARY KEY AUTOINCREMENT,
  name          TEXT    NOT NULL,
  email         TEXT    NOT NULL,
  password_hash TEXT,
  account_key   BLOB    NOT NULL,
  range_id      BIGINT  NOT NULL,
  user_id       BIGINT,
  state         TEXT    NOT NULL,
  created_ms    BIGINT  NOT NULL
);
CREATE UNIQUE INDEX accounts_name ON accounts (name);
CREATE UNIQUE INDEX accounts_email ON accounts (email);
CREATE UNIQUE INDEX accounts_user ON accounts (user_id);
CREATE INDEX accounts_state ON accounts (state, id);

-- +goose Down
DROP TABLE accounts;
