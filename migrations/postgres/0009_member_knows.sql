-- The newest migration that the member's program knows, by which others see that it may not run on the schema any more; NULL: it is
-- of a release that did not say, and knows none after 8.
ALTER TABLE member ADD COLUMN knows BIGINT;
