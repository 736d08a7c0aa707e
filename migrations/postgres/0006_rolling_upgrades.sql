-- Which programs may still run on this schema: those that know migration `oldest` at least. One row. A migration that programs
-- before it cannot live with raises it, and names in `release` the first release that can; all others leave it alone.
CREATE TABLE schema_rule (
    oldest  BIGINT NOT NULL,
    release TEXT   NOT NULL
);
INSERT INTO schema_rule (oldest, release) VALUES (6, '0.1.0');
