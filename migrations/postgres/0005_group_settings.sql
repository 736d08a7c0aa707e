-- Settings of a group are an object of its configuration (kind `group_settings`), so that they have a revision. What was left in
-- this column is no setting: the lineages that an operator has declared over, a JSON list.
ALTER TABLE gateway_group ADD COLUMN supersedes TEXT NOT NULL DEFAULT '[]';
UPDATE gateway_group SET supersedes = COALESCE(settings::jsonb ->> 'supersedes', '[]');
ALTER TABLE gateway_group DROP COLUMN settings;
