-- Who owns a conversation (gateway/owner/rules.py says the same, purely). What decides is read in statements of their own,
-- after the locks: one statement would judge by what it saw before it waited.


-- The life of a Machine with a process of its application: the one that it has, or a new one. Another process of the
-- application is another life.
CREATE OR REPLACE FUNCTION run_gateway.begin_life(own_machine uuid, own_address text, own_fly text, own_app text)
RETURNS bigint
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    begun bigint;
BEGIN
    LOOP
        INSERT INTO run_gateway.owner_lives AS l (life, machine, address, fly, app)
        VALUES (('x' || right(gen_random_uuid()::text, 12))::bit(48)::bigint, own_machine, own_address, own_fly, own_app)
        ON CONFLICT (machine) WHERE ended_at IS NULL DO NOTHING RETURNING l.life INTO begun;
        IF FOUND THEN
            RETURN begun;
        END IF;
        SELECT l.life INTO begun FROM run_gateway.owner_lives l
         WHERE l.machine = own_machine AND l.ended_at IS NULL AND l.app = own_app;
        IF FOUND THEN
            RETURN begun;
        END IF;
        UPDATE run_gateway.owner_lives l SET ended_at = clock_timestamp()
         WHERE l.machine = own_machine AND l.ended_at IS NULL AND l.app <> own_app;
    END LOOP;
END
$$;


-- Who has a key. No row: nobody.
CREATE OR REPLACE FUNCTION run_gateway.owner_of(wanted bytea, OUT life bigint, OUT epoch bigint)
RETURNS SETOF record
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT o.life, o.epoch FROM run_gateway.owned o JOIN run_gateway.owner_lives l ON l.life = o.life
     WHERE o.key = wanted AND l.ended_at IS NULL;
END;


-- Gives a key to a life, unless a life that has not ended has it. Returns who has it then; no row: nobody, since the taker
-- has ended, or drains. `taken`: it was given just now; `from_life`: who had it before.
CREATE OR REPLACE FUNCTION run_gateway.own(
    wanted bytea, of_tenant text, of_row text, of_id bytea, taker bigint,
    OUT life bigint, OUT epoch bigint, OUT taken boolean, OUT from_life bigint
)
RETURNS SETOF record
LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    LOOP
        SELECT w.life, w.epoch, false INTO life, epoch, taken FROM run_gateway.owner_of(wanted) w;
        IF FOUND THEN
            RETURN NEXT;
            RETURN;
        END IF;
        PERFORM 1 FROM run_gateway.owner_lives l WHERE l.life = taker AND l.ended_at IS NULL AND NOT l.draining;
        IF NOT FOUND THEN
            RETURN;
        END IF;
        INSERT INTO run_gateway.owned AS o (key, tenant, row_name, id, life, epoch)
        VALUES (wanted, of_tenant, of_row, of_id, taker, nextval('run_gateway.owner_epochs'))
        ON CONFLICT (key) DO NOTHING RETURNING o.life, o.epoch, true INTO life, epoch, taken;
        IF FOUND THEN
            RETURN NEXT;
            RETURN;
        END IF;
        SELECT o.life INTO from_life FROM run_gateway.owned o WHERE o.key = wanted FOR UPDATE;
        IF FOUND THEN
            PERFORM 1 FROM run_gateway.owner_lives l WHERE l.life = from_life AND l.ended_at IS NULL;
            IF NOT FOUND THEN
                UPDATE run_gateway.owned o
                   SET life = taker, epoch = nextval('run_gateway.owner_epochs'), taken_at = clock_timestamp()
                 WHERE o.key = wanted RETURNING o.life, o.epoch, true INTO life, epoch, taken;
                RETURN NEXT;
                RETURN;
            END IF;
        END IF;
        from_life := NULL;
    END LOOP;
END
$$;
