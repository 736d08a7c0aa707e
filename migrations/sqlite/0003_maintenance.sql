-- What takes no new work until an operator says otherwise: JSON {reason, by, since} where that is so, NULL where not.
ALTER TABLE gateway_group ADD COLUMN maintenance TEXT;
ALTER TABLE node ADD COLUMN maintenance TEXT;

-- Of replicas of the control plane, by the name that outlives their processes.
CREATE TABLE member_maintenance (
    name        TEXT PRIMARY KEY,
    maintenance TEXT NOT NULL
) STRICT;
