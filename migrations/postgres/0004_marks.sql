-- What tells a revision from another one of the same number: after a failover that lost the last commits, revisions are counted
-- once more. Random; empty for revisions made before there were marks.
ALTER TABLE change_set ADD COLUMN mark TEXT NOT NULL DEFAULT '';
