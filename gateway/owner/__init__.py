"""One live owner for each conversation of the application behind the gateway, whichever Machine a request comes to.

**Law.** Of one conversation, never two applications of different Machines get a request that writes in epochs that
overlap. README.md beside this file says why it holds ("Why never two"). A request of which a byte may have reached an
application is never sent again.
"""
