-- A key that was made a moment ago is published, and does not sign yet: whoever is called finds it at every Machine.

ALTER TABLE run_gateway.subscription_keys ADD COLUMN created_at timestamptz NOT NULL DEFAULT now();
