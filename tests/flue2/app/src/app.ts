import { createAgentRouter } from '@flue/runtime/routing';
import { Hono } from 'hono';
import { Chat } from './agents/chat.ts';

const app = new Hono();
app.get('/health', (c) => c.json({ pid: process.pid }));
app.route('/agents/chat', createAgentRouter(Chat));
export default app;
