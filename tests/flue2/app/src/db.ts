// Flue 2.x keeping conversations in Postgres. The newest @flue/postgres that could be had from npm is 0.10.2, which 2.x refuses
// at boot; this file has the tables of @flue/postgres 2.0.3 (format version 1) and a store of submissions over them. The
// conversation streams themselves are Flue's own code (defineSqlConversationStreamStore).
// LEASE_MS: how long a submission's lease is, instead of Flue's 30 s.
import {
  type AgentSubmission, type AgentSubmissionInput, type AgentSubmissionStore, type AttachmentStore, type PersistenceAdapter,
  type SubmissionAttemptRef, type SubmissionClaimRef, type SubmissionDurability,
  admitSubmissionWithBackend, assertSupportedFlueFormatVersion, attachmentBytesEqual, AttachmentConflictError, copyAttachmentBytes,
  createDispatchAgentSubmissionInput, defineSqlConversationStreamStore, hydratePersistedSubmissionAttachments, isSubmissionPayload,
  sameAttachmentRef, verifyAttachmentBytes,
  DURABILITY_DEFAULT_MAX_ATTEMPTS, DURABILITY_DEFAULT_TIMEOUT_MS, FLUE_FORMAT_VERSION, LEASE_DURATION_MS,
} from '@flue/runtime/adapter';
import postgres from 'postgres';

type Row = Record<string, any>;
const LEASE_MS = Number(process.env.LEASE_MS ?? LEASE_DURATION_MS);
const until = (asked: number) => asked - LEASE_DURATION_MS + LEASE_MS;
interface Db { query(text: string, params?: readonly unknown[]): Promise<Row[]> }

const SCHEMA = `
  CREATE TABLE IF NOT EXISTS flue_submission_chunks (
    submission_id text NOT NULL, item_id text NOT NULL, chunk_index integer NOT NULL, chunk_count integer NOT NULL,
    data text NOT NULL, PRIMARY KEY (submission_id, item_id, chunk_index));
  CREATE TABLE IF NOT EXISTS flue_agent_submissions (
    sequence bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, submission_id text NOT NULL UNIQUE, session_key text NOT NULL,
    kind text NOT NULL, payload text NOT NULL, status text NOT NULL, accepted_at bigint NOT NULL, canonical_ready_at bigint,
    attempt_id text, input_applied_at bigint, abort_requested_at bigint, started_at bigint, joined_into text, settled_at bigint,
    error text, attempt_count integer NOT NULL DEFAULT 0, max_attempts integer NOT NULL DEFAULT ${DURABILITY_DEFAULT_MAX_ATTEMPTS},
    timeout_at bigint NOT NULL DEFAULT 0, owner_id text, lease_expires_at bigint NOT NULL DEFAULT 0,
    settlement_record_id text, settlement_record text);
  CREATE INDEX IF NOT EXISTS flue_agent_submissions_status_sequence_idx ON flue_agent_submissions (status, sequence);
  CREATE INDEX IF NOT EXISTS flue_agent_submissions_session_status_sequence_idx ON flue_agent_submissions (session_key, status, sequence);
  CREATE INDEX IF NOT EXISTS flue_agent_submissions_joined_into_idx ON flue_agent_submissions (joined_into) WHERE joined_into IS NOT NULL;
  CREATE TABLE IF NOT EXISTS flue_conversation_streams (
    path text PRIMARY KEY, identity_json text NOT NULL, next_offset bigint NOT NULL DEFAULT 0, producer_id text,
    producer_epoch bigint NOT NULL DEFAULT 0, next_producer_sequence bigint NOT NULL DEFAULT 0, incarnation text NOT NULL);
  CREATE TABLE IF NOT EXISTS flue_conversation_stream_batches (
    path text NOT NULL, seq bigint NOT NULL, producer_id text NOT NULL, producer_epoch bigint NOT NULL,
    producer_sequence bigint NOT NULL, data text NOT NULL, submission_id text, attempt_id text,
    PRIMARY KEY (path, seq), UNIQUE (path, producer_id, producer_epoch, producer_sequence));
  CREATE TABLE IF NOT EXISTS flue_conversation_fold_checkpoints (
    path text PRIMARY KEY, head_offset text NOT NULL, incarnation text NOT NULL, format_version bigint NOT NULL, data text NOT NULL);
  CREATE TABLE IF NOT EXISTS flue_attachments (
    stream_path text NOT NULL, attachment_id text NOT NULL, mime_type text NOT NULL, byte_size bigint NOT NULL CHECK (byte_size >= 0),
    digest text NOT NULL, conversation_id text NOT NULL, bytes bytea NOT NULL, created_at bigint NOT NULL,
    PRIMARY KEY (stream_path, attachment_id));`;

const UNSETTLED = `('queued', 'running', 'terminalizing', 'joining', 'joined')`;
const first = (s: string) => `NOT EXISTS (SELECT 1 FROM flue_agent_submissions e
  WHERE e.session_key = ${s}.session_key AND e.status IN ${UNSETTLED} AND e.sequence < ${s}.sequence)`;
const hostRuns = (id: string, attempt: string) => `EXISTS (SELECT 1 FROM flue_agent_submissions h
  WHERE h.submission_id = ${id} AND h.status = 'running' AND h.attempt_id = ${attempt})`;
const text = (error: unknown) => (error instanceof Error ? error.message : String(error));
const num = (v: any) => (v == null ? undefined : Number(v));
const str = (v: any) => (v == null ? undefined : String(v));

function submission(row: Row, chunks: readonly any[]): AgentSubmission {
  const input = hydratePersistedSubmissionAttachments(JSON.parse(row.payload) as AgentSubmissionInput, chunks);
  const s: Row = {
    sequence: Number(row.sequence), submissionId: row.submission_id, sessionKey: row.session_key, kind: row.kind, input, status: row.status,
    acceptedAt: Number(row.accepted_at), canonicalReadyAt: row.canonical_ready_at == null ? null : Number(row.canonical_ready_at),
    attemptId: str(row.attempt_id), inputAppliedAt: num(row.input_applied_at), abortRequestedAt: num(row.abort_requested_at),
    startedAt: num(row.started_at), joinedInto: str(row.joined_into), error: str(row.error), settledAt: num(row.settled_at),
    attemptCount: Number(row.attempt_count), maxAttempts: Number(row.max_attempts), timeoutAt: Number(row.timeout_at),
    ownerId: str(row.owner_id), leaseExpiresAt: Number(row.lease_expires_at),
  };
  const { kind, submissionId, sessionKey, acceptedAt } = s as any;
  if (!isSubmissionPayload(input, { kind, submissionId, sessionKey, acceptedAt })) throw new Error('[flue] malformed submission payload');
  for (const key of Object.keys(s)) if (s[key] === undefined) delete s[key];
  return s as AgentSubmission;
}
const obligation = (r: Row) => ({
  submissionId: r.submission_id, sessionKey: r.session_key, attemptId: r.attempt_id, recordId: r.settlement_record_id,
  record: JSON.parse(r.settlement_record),
});

class Submissions implements AgentSubmissionStore {
  constructor(private db: Db, private tx: <T>(fn: (tx: Db) => Promise<T>) => Promise<T>) {}

  private chunks(db: Db, id: string) {
    return db.query('SELECT item_id, chunk_index, chunk_count, data FROM flue_submission_chunks WHERE submission_id = $1 ORDER BY item_id, chunk_index', [id])
      .then((rows) => rows.map((r) => ({ itemId: r.item_id, index: Number(r.chunk_index), count: Number(r.chunk_count), data: r.data })));
  }
  private async parse(db: Db, row: Row | undefined) {
    return row ? submission(row, await this.chunks(db, row.submission_id)) : null;
  }
  private list(where: string, params: unknown[] = [], broken: string = 'queued'): Promise<AgentSubmission[]> {
    return this.tx(async (tx) => {
      const out: AgentSubmission[] = [];
      for (const row of await tx.query(`SELECT s.* FROM flue_agent_submissions s WHERE ${where} ORDER BY s.sequence`, params)) {
        try { out.push((await this.parse(tx, row))!); } catch (error) { // a row that cannot be read ends, so that it blocks no queue
          const ended = await tx.query(`UPDATE flue_agent_submissions SET status = 'settled', settled_at = $1, error = $2
            WHERE sequence = $3 AND status = $4 RETURNING submission_id`, [Date.now(), text(error), row.sequence, broken]);
          if (ended[0]) await this.settleJoined(tx, row.submission_id, text(error));
        }
      }
      return out;
    });
  }
  private async changed(sql: string, params: unknown[]) { return (await this.db.query(sql, params)).length > 0; }
  private async settleJoined(tx: Db, host: string, error: string | null) {
    await tx.query(`UPDATE flue_agent_submissions SET status = 'settled', settled_at = $1, error = $2 WHERE joined_into = $3 AND status = 'joined'`, [Date.now(), error, host]);
    await tx.query(`UPDATE flue_agent_submissions SET status = 'queued', joined_into = NULL, input_applied_at = NULL WHERE joined_into = $1 AND status = 'joining'`, [host]);
  }
  private settle(a: SubmissionAttemptRef, error: string | null) {
    return this.tx(async (tx) => {
      const rows = await tx.query(`UPDATE flue_agent_submissions SET status = 'settled', settled_at = $1, error = $2
        WHERE submission_id = $3 AND status = 'running' AND attempt_id = $4 RETURNING submission_id`, [Date.now(), error, a.submissionId, a.attemptId]);
      if (rows[0]) await this.settleJoined(tx, a.submissionId, error);
      return rows.length > 0;
    });
  }
  private admit(input: AgentSubmissionInput) {
    return this.tx(async (tx) => admitSubmissionWithBackend<Row>(input, {
      insertIfAbsent: async (r) => { await tx.query(`INSERT INTO flue_agent_submissions (submission_id, session_key, kind, payload, status, accepted_at)
        VALUES ($1, $2, $3, $4, 'queued', $5) ON CONFLICT (submission_id) DO NOTHING`, [r.submissionId, r.sessionKey, r.kind, r.payload, r.acceptedAt]); },
      getExisting: async (id) => (await tx.query('SELECT * FROM flue_agent_submissions WHERE submission_id = $1', [id]))[0],
      readChunks: (id) => this.chunks(tx, id),
      replaceChunks: async (id, chunks) => {
        await tx.query('DELETE FROM flue_submission_chunks WHERE submission_id = $1', [id]);
        for (const c of chunks) await tx.query('INSERT INTO flue_submission_chunks VALUES ($1, $2, $3, $4, $5)', [id, c.itemId, c.index, c.count, c.data]);
      },
      parseSubmission: submission,
    }));
  }

  getSubmission(id: string) { return this.tx(async (tx) => this.parse(tx, (await tx.query('SELECT * FROM flue_agent_submissions WHERE submission_id = $1', [id]))[0])); }
  async hasUnsettledSubmissions() { return (await this.db.query(`SELECT 1 FROM flue_agent_submissions WHERE status IN ${UNSETTLED} LIMIT 1`)).length > 0; }
  listRunnableSubmissions() { return this.list(`s.status = 'queued' AND s.canonical_ready_at IS NOT NULL AND ${first('s')}`); }
  listUnreadySubmissions() { return this.list(`s.status = 'queued' AND s.canonical_ready_at IS NULL`); }
  listRunningSubmissions() { return this.list(`s.status = 'running'`, [], 'running'); }
  listExpiredSubmissions() { return this.list(`s.status = 'running' AND s.lease_expires_at > 0 AND s.lease_expires_at < $1`, [Date.now()], 'running'); }
  listJoinedSubmissions(host: string) { return this.list(`s.joined_into = $1 AND s.status IN ('joining', 'joined')`, [host], 'running'); }
  async listPendingSubmissionSettlements() {
    return (await this.db.query(`SELECT * FROM flue_agent_submissions WHERE status = 'terminalizing' ORDER BY sequence`)).map(obligation);
  }
  admitDispatch(input: any) { return this.admit(createDispatchAgentSubmissionInput(input)); }
  async admitDirect(input: AgentSubmissionInput) {
    const got = await this.admit(input);
    if (got.kind !== 'submission') throw new Error('[flue] direct admission gave an unexpected result');
    return got.submission;
  }
  async markSubmissionCanonicalReady(id: string) {
    const done = await this.changed(`UPDATE flue_agent_submissions SET canonical_ready_at = COALESCE(canonical_ready_at, $1)
      WHERE submission_id = $2 AND status = 'queued' RETURNING 1`, [Date.now(), id]);
    return done ? this.getSubmission(id) : null;
  }
  claimSubmission(c: SubmissionClaimRef) {
    const now = Date.now();
    return this.tx(async (tx) => this.parse(tx, (await tx.query(`WITH it AS (SELECT s.sequence FROM flue_agent_submissions s
        WHERE s.submission_id = $1 AND s.status = 'queued' AND s.canonical_ready_at IS NOT NULL AND ${first('s')})
      UPDATE flue_agent_submissions u SET status = 'running', attempt_id = $2, started_at = $3, attempt_count = attempt_count + 1,
        max_attempts = $4, timeout_at = CASE WHEN timeout_at = 0 THEN $5 ELSE timeout_at END, owner_id = $6, lease_expires_at = $7
      FROM it WHERE u.sequence = it.sequence AND u.status = 'queued' RETURNING u.*`,
      [c.submissionId, c.attemptId, now, DURABILITY_DEFAULT_MAX_ATTEMPTS, now + DURABILITY_DEFAULT_TIMEOUT_MS, c.ownerId, until(c.leaseExpiresAt)]))[0]));
  }
  replaceSubmissionAttempt(a: SubmissionAttemptRef, next: string, lease?: { ownerId: string; leaseExpiresAt: number }) {
    return this.tx(async (tx) => this.parse(tx, (await tx.query(`UPDATE flue_agent_submissions SET attempt_id = $1, started_at = $2,
        attempt_count = attempt_count + 1, owner_id = COALESCE($3, owner_id), lease_expires_at = COALESCE($4, lease_expires_at)
      WHERE submission_id = $5 AND status = 'running' AND attempt_id = $6 RETURNING *`,
      [next, Date.now(), lease?.ownerId ?? null, lease ? until(lease.leaseExpiresAt) : null, a.submissionId, a.attemptId]))[0]));
  }
  markSubmissionInputApplied(a: SubmissionAttemptRef, d?: SubmissionDurability) {
    const now = Date.now();
    return this.changed(`UPDATE flue_agent_submissions SET input_applied_at = COALESCE(input_applied_at, $1),
        max_attempts = CASE WHEN input_applied_at IS NULL THEN $2 ELSE max_attempts END,
        timeout_at = CASE WHEN input_applied_at IS NULL THEN $3 ELSE timeout_at END
      WHERE submission_id = $4 AND status = 'running' AND attempt_id = $5 RETURNING 1`,
      [now, d?.maxAttempts ?? DURABILITY_DEFAULT_MAX_ATTEMPTS, d?.timeoutAt ?? now + DURABILITY_DEFAULT_TIMEOUT_MS, a.submissionId, a.attemptId]);
  }
  requeueSubmission(a: SubmissionAttemptRef) {
    return this.changed(`UPDATE flue_agent_submissions SET status = 'queued', attempt_id = NULL, input_applied_at = NULL, started_at = NULL,
        owner_id = NULL, lease_expires_at = 0 WHERE submission_id = $1 AND status = 'running' AND attempt_id = $2 RETURNING 1`, [a.submissionId, a.attemptId]);
  }
  async requestSessionAbort(key: string) {
    const rows = await this.db.query(`UPDATE flue_agent_submissions SET abort_requested_at = COALESCE(abort_requested_at, $1)
      WHERE session_key = $2 AND status IN ('queued', 'running', 'joining', 'joined') RETURNING submission_id`, [Date.now(), key]);
    return rows.map((r) => r.submission_id as string);
  }
  async reserveSubmissionSettlement(a: SubmissionAttemptRef, s: { recordId: string; record: any }) {
    if (s.record.id !== s.recordId) return null;
    const data = JSON.stringify(s.record);
    return this.tx(async (tx) => {
      const rows = await tx.query(`UPDATE flue_agent_submissions c SET status = 'terminalizing', settlement_record_id = $1, settlement_record = $2,
          attempt_id = $3, started_at = COALESCE(started_at, $4)
        WHERE c.submission_id = $5 AND c.settlement_record_id IS NULL AND (
          (c.status = 'running' AND c.attempt_id = $3 AND c.owner_id IS NOT NULL) OR (c.status = 'joined' AND ${hostRuns('c.joined_into', '$3')}))
        RETURNING c.*`, [s.recordId, data, a.attemptId, Date.now(), a.submissionId]);
      if (rows[0]) return obligation(rows[0]);
      const [old] = await tx.query(`SELECT * FROM flue_agent_submissions WHERE submission_id = $1 AND status = 'terminalizing' AND attempt_id = $2`, [a.submissionId, a.attemptId]);
      return old?.settlement_record_id === s.recordId && old.settlement_record === data ? obligation(old) : null;
    });
  }
  finalizeSubmissionSettlement(a: SubmissionAttemptRef, recordId: string, options?: { errorMessage?: string }) {
    return this.tx(async (tx) => {
      const where = `submission_id = $1 AND status = 'terminalizing' AND attempt_id = $2 AND settlement_record_id = $3`, key = [a.submissionId, a.attemptId, recordId];
      const [row] = await tx.query(`SELECT settlement_record FROM flue_agent_submissions WHERE ${where}`, key);
      if (!row) return false;
      const record = JSON.parse(row.settlement_record);
      const error = record.outcome === 'completed' ? null : (options?.errorMessage ?? record.error?.message ?? 'The submission did not complete.');
      const rows = await tx.query(`UPDATE flue_agent_submissions SET status = 'settled', settled_at = $4, error = $5 WHERE ${where} RETURNING 1`, [...key, Date.now(), error]);
      if (rows[0]) await this.settleJoined(tx, a.submissionId, error);
      return rows.length > 0;
    });
  }
  completeSubmission(a: SubmissionAttemptRef) { return this.settle(a, null); }
  failSubmission(a: SubmissionAttemptRef, error: unknown) { return this.settle(a, text(error)); }
  settleQueuedSubmission(id: string, _outcome: 'failed' | 'aborted', error: unknown) {
    return this.changed(`UPDATE flue_agent_submissions SET status = 'settled', settled_at = $1, error = $2 WHERE submission_id = $3 AND status = 'queued' RETURNING 1`, [Date.now(), text(error), id]);
  }
  claimJoinableSubmissions(host: SubmissionAttemptRef, agent: string) {
    return this.tx(async (tx) => {
      const out: AgentSubmission[] = [];
      const [h] = await tx.query(`SELECT session_key FROM flue_agent_submissions WHERE submission_id = $1 AND status = 'running' AND attempt_id = $2 FOR UPDATE`, [host.submissionId, host.attemptId]);
      if (!h) return out;
      for (const row of await tx.query(`SELECT * FROM flue_agent_submissions WHERE session_key = $1 AND status = 'queued' ORDER BY sequence FOR UPDATE`, [h.session_key])) {
        if (row.canonical_ready_at == null || row.abort_requested_at != null) break;
        let s: AgentSubmission;
        try { s = (await this.parse(tx, row))!; } catch { break; }
        if (s.input.agent !== agent) break;
        await tx.query(`UPDATE flue_agent_submissions SET status = 'joining', joined_into = $1 WHERE submission_id = $2`, [host.submissionId, s.submissionId]);
        out.push({ ...s, status: 'joining', joinedInto: host.submissionId });
      }
      return out;
    });
  }
  finalizeJoinedSubmission(h: SubmissionAttemptRef, id: string) {
    return this.changed(`UPDATE flue_agent_submissions SET status = 'joined', input_applied_at = COALESCE(input_applied_at, $1)
      WHERE submission_id = $2 AND status = 'joining' AND joined_into = $3 AND ${hostRuns('$3', '$4')} RETURNING 1`, [Date.now(), id, h.submissionId, h.attemptId]);
  }
  revertJoiningSubmission(h: SubmissionAttemptRef, id: string) {
    return this.changed(`UPDATE flue_agent_submissions SET status = 'queued', joined_into = NULL, input_applied_at = NULL
      WHERE submission_id = $1 AND status = 'joining' AND joined_into = $2 AND ${hostRuns('$2', '$3')} RETURNING 1`, [id, h.submissionId, h.attemptId]);
  }
  async renewLeases(owner: string, ids: string[]) {
    for (const id of ids) await this.db.query(`UPDATE flue_agent_submissions SET lease_expires_at = $1 WHERE owner_id = $2 AND status = 'running' AND submission_id = $3`, [Date.now() + LEASE_MS, owner, id]);
  }
}

class Attachments implements AttachmentStore {
  constructor(private db: Db, private tx: <T>(fn: (tx: Db) => Promise<T>) => Promise<T>) {}
  private async row(db: Db, path: string, id: string) {
    const [r] = await db.query('SELECT * FROM flue_attachments WHERE stream_path = $1 AND attachment_id = $2', [path, id]);
    return r && { conversationId: r.conversation_id as string, bytes: copyAttachmentBytes(r.bytes),
      attachment: { id, mimeType: r.mime_type as string, size: Number(r.byte_size), digest: r.digest as string } };
  }
  async put(i: any) {
    await verifyAttachmentBytes(i.attachment, i.bytes);
    await this.tx(async (tx) => {
      await tx.query('INSERT INTO flue_attachments VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (stream_path, attachment_id) DO NOTHING',
        [i.streamPath, i.attachment.id, i.attachment.mimeType, i.attachment.size, i.attachment.digest, i.conversationId, copyAttachmentBytes(i.bytes), Date.now()]);
      const r = await this.row(tx, i.streamPath, i.attachment.id);
      if (!r || !sameAttachmentRef(r.attachment, i.attachment) || r.conversationId !== i.conversationId || !attachmentBytesEqual(r.bytes, i.bytes))
        throw new AttachmentConflictError({ path: i.streamPath, attachmentId: i.attachment.id });
    });
  }
  async get(i: any) {
    const r = await this.row(this.db, i.streamPath, i.attachmentId);
    if (!r || r.conversationId !== i.conversationId) return null;
    await verifyAttachmentBytes(r.attachment, r.bytes);
    return { attachment: r.attachment, bytes: r.bytes };
  }
}

export function postgresConversations(url: string): PersistenceAdapter {
  const sql = postgres(url, { onnotice: () => {} });
  const db: Db = { query: (t, p) => sql.unsafe(t, p as any) as any };
  const tx = <T>(fn: (tx: Db) => Promise<T>) => sql.begin((t) => fn({ query: (q, p) => t.unsafe(q, p as any) as any })) as Promise<T>;
  return {
    migrate: () => tx(async (t) => {
      await t.query('SELECT pg_advisory_xact_lock(4242)'); // two servers may boot at once
      await t.query('CREATE TABLE IF NOT EXISTS flue_meta (key text PRIMARY KEY, value text NOT NULL)');
      await t.query(`INSERT INTO flue_meta VALUES ('format_version', $1) ON CONFLICT DO NOTHING`, [String(FLUE_FORMAT_VERSION)]);
      assertSupportedFlueFormatVersion((await t.query(`SELECT value FROM flue_meta WHERE key = 'format_version'`))[0]!.value);
      for (const statement of SCHEMA.split(';')) if (statement.trim()) await t.query(statement);
    }),
    connect: () => ({
      submissionStore: new Submissions(db, tx),
      attachmentStore: new Attachments(db, tx),
      conversationStreamStore: defineSqlConversationStreamStore({
        placeholder: (i) => `$${i}`, lockClause: 'FOR UPDATE', insertIgnorePrefix: 'INSERT', insertIgnoreSuffix: 'ON CONFLICT (path) DO NOTHING',
        supportsReturning: true, query: db.query, transaction: (fn) => tx((t) => fn(t)),
      }),
    }),
    close: () => sql.end(),
  };
}

export default postgresConversations(process.env.DATABASE_URL!);
