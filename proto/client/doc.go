// Package clientpb is what a person's client and an edge say to each other.
// This comment is the specification; client.proto has the fields, proto/errors.go
// the error codes, proto/limits.go every limit.
//
// # Carriage
//
// A frame is a 4-byte big-endian length and that many bytes of protobuf:
// [ClientFrame] towards the server, [ServerFrame] towards the client. A frame
// has at most 4 KiB before login and 64 KiB after it; a greater length is
// answered with an Error (too_big) and the connection is closed. Frames travel
//
//   - over TLS 1.3 on TCP, ALPN "waggle/1";
//   - over QUIC, ALPN "waggle/1", on the first bidirectional stream the client
//     opens; other streams are not read; 0-RTT is off;
//   - over plain TCP where the operator opened such a port. A first byte that
//     is an ASCII letter makes the connection HTTP instead.
//
// # Login and resume
//
// The first frame is [Hello], complete within 5 s of connecting. Anything else
// is refused. The token names user and device and is checked by the edge
// alone; Hello.device must be the token's. A client that keeps updates names
// the incarnation and pts of the last one it has processed, or asks by
// from_confirmed for the position the server keeps for its device; without
// subscribe it gets no updates and cannot confirm any.
//
// [Welcome] answers as soon as a host of the user's range has taken the
// session, within 5 s; else the answer is an Error (not_ready) that says when
// to come again. Updates after Welcome.resume_from follow in order. If the log
// cannot be continued from where the client is (another incarnation, trimmed,
// beyond the end), Welcome.resync is set and [Resync] follows: page threads and
// history, then apply the updates after Resync.pts, which may repeat what was
// read. Resync may also come later, on a running connection.
//
// Requests may be sent right behind Hello; they wait for the Welcome.
//
// # Requests
//
// A request has an id above 0, unique among the connection's unanswered
// requests. Requests are pipelined, at most 1,024 and 1 MiB unanswered;
// responses carry the id and may come out of order. Error answers a request
// that failed: class "retry later" names how long to wait, "give up" says why
// (a request is never answered with class "retry elsewhere": the edge repeats
// it itself). An edge with too much to do refuses messages "retry later", first
// those of connections with the most unanswered ones: more than some tens of
// messages at a time gain nothing.
//
// Every request may be repeated without harm. SendMessage is made so by
// client_msg_id, a UUIDv7 of the server's time (learnt from Welcome and
// HeartbeatAck): the same id gives the same message back. The edge relies on
// this: while a host is replaced it keeps what is unanswered and repeats it in
// order, and the client notices nothing but a pause. SendMessage.after names
// the device's previous send in the thread while that is unanswered, so that a
// lost one cannot be overtaken.
//
// # Updates
//
// [Updates] frames carry the user's log densely: the pts of each update is one
// more than that of the one before. A client that reads slowly is not cut off
// for it at once: the edge stops queueing, and continues from the log when the
// client has read. Once processed, updates are acknowledged by [Confirm] with
// the highest pts, now and then; what was not confirmed comes again only if
// the client asks for it by Hello.
//
// An update is an [Event] of a thread, a [Mark], a contact's change or a
// friend's card. Only events have a seq in a thread; the others take a pts and
// nothing else. A kind that a client does not know takes its pts too.
//
// # Messages
//
// A message is exactly one of text, location, shared card and file. The name on
// a card and what a file is are filled in by the server. A batch of messages is pipelined
// SendMessages, each with its own answer, each naming the one before it.
//
// # Livestreams
//
// A [LiveMessage] tells of a livestream: announced, which counts as a message of
// its owner, then started and ended, as often as it is published, which count for
// none and read nothing. No client sends one: POST /live on the same port makes
// and announces a livestream, POST /live/ID/ticket gives a ticket to watch it.
// [LiveViewers] is a signal like typing: how many watch, when that has changed,
// at most every 5 s.
//
// # Marks
//
// How far a member has got in a thread is a high-water mark: delivered, by
// what any of his devices has confirmed, and read, by MarkRead. The other
// member is told both, and the user's own devices what was read, by updates:
// at most one of each kind per second, thread and member. What is asked by
// MarkRead within a second of the last time is joined and answered at its end
// with the mark as it stands. Read implies delivered, and whoever writes has
// read: a message of the other side is a mark of both kinds, which no update
// repeats. Marks never go back and never pass the last message;
// Thread.peer_delivered_seq and peer_read_seq are where they stand. A Hello
// with incarnation and pts confirms as Confirm does, so that a confirmation
// that was lost is made up for.
//
// # History
//
// ReadHistory pages back from the newest row or from before, and forwards from
// after or from at_ms: the first row of that time, found without reading what
// lies before it. Times never go back within a thread.
//
// # Presence and typing
//
// Neither is stored, in order with updates, or sure to arrive; a client that
// reads slowly does without. They are for friends only, and only for
// connections that subscribe. After the Welcome every friend follows of whom
// something is known, and then each change. A user is online while he has a
// subscribing connection, and until about 2 s after the last one has ended. A
// friend whose host has died is taken for gone after at most 30 s. A user who
// hides his presence is offline to all, without a time, and not seen typing.
// Typing is passed on at most every 2 s for each thread and holds for 5 s.
//
// # People
//
// What two people are to each other is decided by one range, that of their
// direct thread, so that crossing requests, answers, removals and blocks have
// one order. [ChangeContact] acts once per client_id, as SendMessage stores
// once, and is answered with the contact as it stands then. REQUEST waits for
// the other side's ACCEPT; one that meets the other side's own request makes
// friends at once. A second request takes the place of the first. The first
// time two become friends, two messages are written in their thread: of who
// asked (his greeting, or "Hello, I am NAME."), then of who accepted ("We are
// friends now. Say hello!", or the greeting of his own request). IGNORE puts a
// request aside without telling who asked; he may still be accepted. REMOVE
// ends a friendship for both, or takes an own request back. BLOCK ends all and
// refuses messages and requests in both directions until UNBLOCK; who is
// blocked sees the end of the friendship or request as a REMOVE, and does not
// find the other any more. History stays readable.
//
// Every change is an Update with a [ContactEvent] in the log of each side that
// sees one, the acting one included, so that all devices hear of it. Relation
// NONE means that the contact is gone. alias and tags are the caller's own and
// nobody else's; [EditContact] changes them, which is an event with action
// NONE. [ListContacts] pages by id; a page may have fewer rows than asked for
// and still have a cursor.
//
// [SetProfile] changes the user's card, of which friends hear by an Update with
// the new [Card], and who may write to him: anyone who is not blocked, or
// friends only; others get Error (not_friends). A deployment may let only
// friends write to each other. The owner of a thread with messages hears of
// such a change within moments; a first message is checked against the setting
// as it is.
//
// [FindUser] and [FindPeople] answer with cards, whose relation is what the
// person is to the caller. Who blocks the caller is not found, as if he did not
// exist. Cards of people whose cell does not answer within 1 s have id and name
// only. Searches, changes of contacts and of the profile are limited to 5 per
// second and user, 20 at once.
//
// # Devices
//
// A login is one device; its token carries a session number, which every login
// of the device raises. Which devices of an account stay logged in together is
// the deployment's policy: up to 8, one of each platform, or one. A login ends
// the others in the same step; their connections get Closing (displaced), and
// so does every later Hello with their tokens. ListDevices, EndDevice and
// EndAllDevices serve what the user does himself; ended devices get Closing
// (logged_out, session_ended). Closing (disconnected) is an operator's: come
// back after retry_ms. A token that expires does not end the connection; the
// next Hello needs a new one, from POST /refresh on the same port.
//
// # Heartbeat and end
//
// Welcome.heartbeat_ms is how often to send [Heartbeat] when there is nothing
// else to say. After 2.5 intervals in silence the edge closes. HeartbeatAck
// carries the newest pts the edge knows of.
//
// Whenever the server ends a connection it writes what is queued for at most
// 1 s, last a frame that says why, then finishes its side and waits within the
// same second for the client to finish the other: [Closing] when the session
// was in order (logged out, idle, displaced, the edge shuts down: alternatives
// are other edges' addresses, to be tried after retry_ms), Error with the
// offending id, or 0, when the protocol was broken. A connection that ends
// without such a frame was lost: connect again and resume.
//
// An edge that is emptied says [Redirect] first. The client connects to an
// alternative and says Hello there with what it has processed; after the
// Welcome it says Logout here, reads on until the Closing, and goes on there:
// updates that come twice are known by their pts, and what is unanswered is
// repeated. Who is still here after 10 s gets Closing (shutting_down).
//
// # Frames
//
//	frame          direction  answer         meaning
//	-----          ---------  ------         -------
//	Hello          →          Welcome        who connects, from where to resume
//	Heartbeat      →          HeartbeatAck   still here; answered by the edge
//	Logout         →          Closing        end this connection in order
//	Confirm        →          none           processed all updates up to pts
//	SendMessage    →          MessageSent    append a message; answered once durable
//	ReadHistory    →          History        page through a thread by seq
//	ListThreads    →          Threads        page through the threads, newest first
//	MarkRead       →          ReadMarked     raise the read mark of a thread
//	FindUser       →          UserFound      the card of one, by exact name or id
//	FindPeople     →          People         cards of people by the beginning of their name
//	ChangeContact  →          ContactChanged request, accept, ignore, remove, block, unblock
//	EditContact    →          ContactChanged own name for a contact, tags
//	ListContacts   →          Contacts       page through contacts of some relations
//	ReadProfile    →          Profile        the user's own
//	SetProfile     →          Profile        change it; friends are told
//	ListDevices    →          Devices        the user's logged-in devices
//	EndDevice      →          Done           log one out
//	EndAllDevices  →          Done           log all out, this one too
//	Typing         →          none           the user is writing in a thread
//
//	Welcome        ←                         the session is attached
//	HeartbeatAck   ←                         newest pts and server time
//	Error          ←                         a request, or with id 0 the connection, is refused
//	Closing        ←                         last frame: why, and where to go
//	Redirect       ←                         connect to another edge, then leave this one
//	Updates        ←                         consecutive updates of the log; not asked for
//	Resync         ←                         resuming is impossible; read anew, continue after pts
//	MessageSent    ←                         thread, seq and time of the message
//	History        ←                         rows of a thread, oldest first
//	Threads        ←                         one page of threads
//	ReadMarked     ←                         the mark as it stands now
//	UserFound      ←                         id, name and card
//	People         ←                         cards, by name
//	ContactChanged ←                         the contact as it stands now
//	Contacts       ←                         one page of contacts
//	Profile        ←                         the user's own profile as it stands now
//	Devices        ←                         the user's devices
//	Done           ←                         done
//	Presence       ←                         who of the friends is online; not asked for
//	TypingNow      ←                         a friend is writing; not asked for
//	LiveViewers    ←                         how many watch a livestream; not asked for
package clientpb
