"""One live owner for each conversation of the application behind the gateway, whichever Machine a request comes to.

**Law.** Of one conversation, never two applications of different Machines get a request that writes in epochs that
overlap. Why this holds:

1. An ownership belongs to a *life*: of a Machine's gateway together with one process of its application. A row of
   `run_gateway.owned` says which life has a key; it changes hands under its lock, and only from a life that has ended.
2. A life is ended by its own Machine, which sends nothing more by then, or by another one, which has seen no sign of
   life (`beats`) for a whole lease by its own steady clock. That is one statement, which does nothing if there has been
   another beat since. What has ended never beats again.
3. A Machine believes in its life for a lease, less a margin, after it has *sent* the last beat that was answered.
   Nobody can have seen that beat earlier, so whoever counts a whole lease of silence ends the count after the belief.
   The margin is for clocks that do not run alike. No wall clock is asked, not even the database's: it may jump.
4. The belief, and that the application's process is still that one, are looked at right before a request's head, and
   each piece of its body, is written to the application. A Machine that was stopped for an hour finds on its
   first look that an hour has passed: its clock went on.

So what a Machine sends by an ownership is sent before that life ends, and what its successor sends, after. A request of
which a byte may have reached an application is never sent again.
"""
