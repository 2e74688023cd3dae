// An app's page: the AI SDK's useChat({ resume: true }), as its documentation has it. Of the page itself a test sees
// `window.look`, and that it remembers over a reload that it has asked.

import { useChat } from "@ai-sdk/react"
import { DefaultChatTransport } from "ai"
import { useEffect } from "react"
import { createRoot } from "react-dom/client"

const asked = new URLSearchParams(location.search)
const id = asked.get("id")
const resume = asked.get("resume") === "True"
const again = sessionStorage.getItem(id) !== null
const question = { id: "u", role: "user", parts: [{ type: "text", text: asked.get("prompt") }] }

// It asks when it knows that there is nothing to resume.
let ask = () => {}
async function tell(...request) {
  const response = await fetch(...request)
  if (response.status === 204) setTimeout(() => ask())
  return response
}

const seen = { text: "", version: 1 }

function Chat() {
  const { messages, status, error, sendMessage } = useChat({
    id,
    messages: again ? [question] : [],
    resume,
    transport: new DefaultChatTransport({ api: "/api/chat", fetch: tell }),
  })
  ask = () => {
    if (sessionStorage.getItem(id) !== null) return
    sessionStorage.setItem(id, "asked")
    sendMessage(question)
  }
  const parts = messages.filter((message) => message.role === "assistant").flatMap((message) => message.parts)
  const text = parts.filter((part) => part.type === "text").map((part) => part.text).join("")
  if (!text.startsWith(seen.text)) seen.version++
  seen.text = text
  // What is new since a test has had `length` characters of this version of the text.
  window.look = (version, length) => {
    const news = text.slice(version === seen.version ? length : 0)
    return { text: news, version: seen.version, status, error: error?.message ?? null }
  }
  useEffect(() => {
    window.turns = (window.turns ?? 0) + 1
  }, [status])
  useEffect(() => {
    if (!resume) ask()
  }, [])
  return <main hidden>{text}</main> // nobody looks: to lay out 2 MB anew 500 times takes a browser seconds
}

createRoot(document.body.appendChild(document.createElement("div"))).render(<Chat />)
