// pi-ai's own test provider: a canned reply at a fixed pace, no network.
import { createProvider } from '@earendil-works/pi-ai';
import { createFauxCore, fauxAssistantMessage, fauxText, fauxToolCall } from '@earendil-works/pi-ai/providers/faux';
import { setProvider } from '@flue/runtime';

const core = createFauxCore({
  api: 'canned',
  provider: 'canned',
  models: [{ id: 'slow', reasoning: true, contextWindow: 128000, maxTokens: 4096 }],
  tokensPerSecond: Number(process.env.TOKENS_PER_SECOND ?? 50),
  tokenSize: { min: 2, max: 3 },
});

/** What the last message asks for, which is JSON: `{"ticks": calls of the tool, "intervalMs": how long each takes}`. */
function asked(messages: any[]): { at: number; options: { ticks?: number; intervalMs?: number } } {
  for (let at = messages.length - 1; at >= 0; at--) {
    if (messages[at].role !== 'user') continue;
    const content = messages[at].content;
    const text: string = typeof content === 'string' ? content : content.map((block: any) => block.text ?? '').join('');
    if (text.startsWith('{')) return { at, options: JSON.parse(text.slice(0, text.lastIndexOf('}') + 1)) };
    if (!text.startsWith('<')) return { at, options: {} }; // Flue's own notes to the model start with a tag
  }
  return { at: -1, options: {} };
}

function step(context: any) {
  const { at, options } = asked(context.messages);
  const { ticks = 0, intervalMs = 100 } = options;
  const done = context.messages.slice(at + 1).filter((message: any) => message.role === 'toolResult').length;
  if (done >= ticks) return fauxAssistantMessage(fauxText(`done ${ticks}`));
  return fauxAssistantMessage([fauxToolCall('tick', { i: done + 1, intervalMs })], { stopReason: 'toolUse' });
}

const next = (stream: any) => (model: any, context: any, options: any) => {
  core.appendResponses([step(context)]);
  return stream(model, context, options);
};

setProvider(
  createProvider({
    id: 'canned',
    auth: { apiKey: { name: 'none', resolve: async () => ({ auth: {} }) } },
    models: core.models,
    api: { stream: next(core.stream), streamSimple: next(core.streamSimple) },
  } as any),
);
