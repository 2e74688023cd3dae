// An agent with streams of its own: pi-ai's test provider says the same thing again and again, at a fixed pace.
import { fauxAssistantMessage, fauxText, registerFauxProvider } from '@earendil-works/pi-ai/compat';
import { defineAgent, registerProvider, type AgentRouteHandler } from '@flue/runtime';

export const route: AgentRouteHandler = async (_c, next) => next();

const faux = registerFauxProvider({
  api: 'parrot', provider: 'parrot', models: [{ id: 'slow' }], tokensPerSecond: 5, tokenSize: { min: 2, max: 3 },
});
registerProvider('parrot', {
  api: 'parrot' as never, baseUrl: 'http://127.0.0.1:1/unused', apiKey: 'unused', models: { slow: { contextWindow: 128000, maxTokens: 4096 } },
});
faux.appendResponses(Array.from({ length: 100 }, () => fauxAssistantMessage(fauxText('Pieces of eight, pieces of eight, pieces of eight.'))));

export default defineAgent(() => ({ model: 'parrot/slow', instructions: 'Repeat.' }));
