'use agent';
import { defineTool, useModel, useTool } from '@flue/runtime';
import * as v from 'valibot';
import '../provider.ts';

const tick = defineTool({
  name: 'tick',
  description: 'Wait, then say when, and in which process.',
  input: v.object({ i: v.number(), intervalMs: v.number() }),
  async run({ data }) {
    await new Promise((done) => setTimeout(done, data.intervalMs));
    return { output: { i: data.i, emittedAt: Date.now(), pid: process.pid } };
  },
});

export function Chat() {
  useModel('canned/slow');
  useTool(tick);
  return 'Answer briefly.';
}
