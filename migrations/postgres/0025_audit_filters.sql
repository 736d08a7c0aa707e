-- The audit log is read by any of its members, newest first (docs/audit.md). What nearly all entries have in common needs no index, and has
-- none: there the newest are soon found.
-- However many entries there are: the start of the first replica of this version waits for it, and so do those that change something.
CREATE INDEX audit_kind ON audit (kind, id);
CREATE INDEX audit_group ON audit (group_id, id);
CREATE INDEX audit_name ON audit (object, id);
CREATE INDEX audit_action ON audit (action, id) WHERE action NOT IN ('create', 'update', 'delete');
CREATE INDEX audit_outcome ON audit (outcome, id) WHERE outcome <> 'done';
