// A page as the AI SDK's documentation has it, with the transport as its own documentation has it.

import { useChat } from "@ai-sdk/react"
import { createDurableChatTransport } from "@durable-streams/aisdk-transport"
import { createRoot } from "react-dom/client"

const transport = createDurableChatTransport({ api: "/api/chat" })

function Chat() {
  const { messages, sendMessage, status, error } = useChat({ id: "c", transport, resume: true })
  const answers = messages.filter(({ role }) => role === "assistant")
  const parts = answers.flatMap((message) => message.parts).filter(({ type }) => type === "text")
  return (
    <>
      <p id="text">{parts.map(({ text }) => text).join("")}</p>
      <p id="status">{error === undefined ? status : `error: ${error.message}`}</p>
      <button onClick={() => sendMessage({ text: "hello" })}>Ask</button>
    </>
  )
}

createRoot(document.getElementById("root")).render(<Chat />)
