// An app's page: the AI SDK's useChat({ resume: true }), as its documentation has it. Of the page itself a test sees
// `window.chat`, and that it remembers over a reload that it has asked.

import { useChat } from "@ai-sdk/react"
import { DefaultChatTransport } from "ai"
import { useEffect } from "react"
import { createRoot } from "react-dom/client"

const asked = new URLSearchParams(location.search)
const id = asked.get("id")
const again = sessionStorage.getItem(id) !== null
const question = { id: "u", role: "user", parts: [{ type: "text", text: asked.get("prompt") }] }

function Chat() {
  const { messages, status, error, sendMessage, stop } = useChat({
    id,
    messages: again ? [question] : [],
    resume: again,
    transport: new DefaultChatTransport({ api: "/api/chat" }),
  })
  useEffect(() => {
    if (again) return
    sessionStorage.setItem(id, "asked")
    sendMessage(question)
  }, [])
  const parts = messages.filter((message) => message.role === "assistant").flatMap((message) => message.parts)
  const text = parts.filter((part) => part.type === "text").map((part) => part.text).join("")
  window.chat = { text, status, error: error?.message ?? null }
  window.stop = async () => {
    await fetch(`/api/chat/${id}/stop`, { method: "POST" })
    await stop()
  }
  return <main>{text}</main>
}

createRoot(document.body.appendChild(document.createElement("div"))).render(<Chat />)
