-- +goose Up
CREATE TABLE accounts (
  id            BIGINT       NOT NULL AUTO_INCREMENT PRIMARY KEY,
  name          VARCHAR(32)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  email         VARCHAR(254) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  password_hash VARCHAR(200) CHARACTER SET ascii COLLATE ascii_bin,
  account_key   BINARY(16)   NOT NULL,
  range_id      BIGINT       NOT NULL,
  user_id       BIGINT,
  state         VARCHAR(16)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  created_ms    BIGINT       NOT NULL,
  UNIQUE KEY accounts_name (name),
  UNIQUE KEY accounts_email (email),
  UNIQUE KEY accounts_user (user_id),
  KEY accounts_state (state, id)
);

-- +goose Down
DROP TABLE accounts;
