// Package cellpb is what edges say to cells, what the nodes of cells say to
// each other, what a range's log contains and what it stores. This comment is
// the specification; cell.proto has the frames, command.proto the Raft command,
// state.proto the stored values, cell/storage/engine/keys.go their keys.
//
// # Carriage
//
// Everything travels over gRPC with mutual TLS. The certificate names role,
// cell and node (waggle://role/cell/node); internal/certs.Allowed is the one
// table of who may call what. Four of the calls are long-lived streams that
// carry batches: a sender takes whatever has gathered while its previous batch
// was being written, so batches grow with load and no timer delays a frame. A
// stream that breaks loses what was on it; whoever needs an answer asks again.
// So every request is safe to repeat.
//
// The first batch of a stream says who speaks (edge, from); it may be empty
// otherwise. No message is above 16 MiB; senders close a batch far below.
//
// # Routes, epochs, refusals
//
// Everything that concerns a range names it with the epoch the sender believes
// in. [Refused] is the only refusal: a code of proto/errors.go, how long to
// wait, and, as far as the refuser knows, the [Route] (cell, epoch, host) to
// take instead. Codes of the class "retry elsewhere" never reach people: edges
// and relays follow them.
//
// A host is found by [Node.WhoHosts] at any storage node of the range. What a
// node hosts itself is certain; what its replica knows of the last grant is
// likely; a wrong guess is put right by the one who was guessed. While a range
// changes hosts, the answer may wait for the next one (wait_ms).
//
// # Sessions: edge ⇄ host (Chat.Attach)
//
// There is one stream per edge and host node. A session is a number the edge
// chose. [AttachSession] hands it to the host of its user's range with
// everything the host must judge: range and epoch, user, device, session
// number and authority version (both from the token), and the last pts written
// to the client. [Attached] answers with the log's incarnation and newest pts,
// and where pushes begin; resync says that the position cannot be continued.
// What is unanswered so far comes with the attach, oldest first and as much as
// an edge sees fit; requests_taken says that it is being served. An edge that
// does not find it set sends it again.
//
// attempt counts the attaches of a session; answers repeat it, so that the
// answer to an earlier attach is not taken for the newest. A Refused with
// attempt 0 means whatever attempt: the host lets the session go, the edge
// attaches it anew and repeats what is unanswered, in order.
//
// A [Push] carries consecutive updates, already encoded for the client. It is a
// hint: an edge that finds a gap, or has no room, asks with fetch for what
// comes after the last pts it has written. confirm carries a device's
// high-water mark; the host joins marks and proposes them now and then.
//
// An edge that has heard nothing from a host for a while sends an empty batch
// and gets one back; after 1 s in silence it attaches the sessions elsewhere.
//
// # Across ranges: host ⇄ host (Chat.Relay)
//
// A [RelayRequest] goes to the host of the range it names, and is answered by a
// [RelayReply] with the same id. Four kinds of caller use it: a host whose user
// writes into a thread that another range owns, or changes what he and another
// are to each other there (append, change_contact); a host that drains a
// channel (channel_rows); a host that reads what lies elsewhere (read_…, with
// epoch 0: whatever it is); and the control plane, which creates users and logs
// devices in.
//
// Rows of a channel are numbered 1, 2, 3 … per (source, destination). The
// destination takes only the next, counts it whatever its effect, and answers
// the last number counted; the source sends on from there and trims. The body
// of a message may ride along in ChannelRow.event for pushing; it is neither
// proposed nor stored there. incarnation tells a source that was restored from
// a backup, whose numbers begin anew.
//
// # Hosting: host ⇄ leader (Storage.Lead)
//
// A chat node keeps a stream to every storage node of its cell (its own is
// reached by function call). The stream makes it a candidate. The leader of a
// range chooses a host and proposes [GrantHost] into the range's log; when that
// is applied it sends [Granted] with the grant's name (Raft term, number), the
// descriptor and the incarnation of the range's channels. From then on the host
// proposes and reads under that name. A lost leadership is told by [Revoked]; a
// lost stream ends the host's ranges after 500 ms.
//
// [Proposal] becomes one [Entry] of the log, with the grant inside. It is judged
// twice: by the leader when it comes, and where it is applied, on every replica
// alike. So a host that slept while another was granted can commit nothing.
// [Applied] gives one [Result] per command, and what there is to push: updates
// logged and channel rows appended.
//
// [LeadRead] is answered from applied state after a read-index round, so that
// it sees everything acknowledged before it was asked.
//
// # Replicas: storage ⇄ storage (Storage.Raft, Snapshot, CreateReplica)
//
// Raft carries the messages of all groups from one node to another. alive is
// sent every 100 ms, with the newest rules the node applies entries by, and
// stands for the heartbeats of all groups that rest; a
// [QuietGroup] tells followers that they may rest too, if they have the same
// term and the same last index, committed. Answers are empty.
//
// Snapshot carries one replica's state at one applied index: a header, then
// pairs of keys and values in key order, in chunks of about 1 MiB, each with a
// checksum. The receiver replaces its spans in one step when it has all of it,
// or not at all; a broken snapshot is sent again from the beginning.
//
// CreateReplica makes a node's first, empty copy of a range. The same request
// again changes nothing; another incarnation, or a lower replica id than the
// node has ever held, is refused.
//
// # The command
//
// An [Entry] names range, epoch, grant and the proposer's time, and carries many
// [Command]s. Applying uses nothing else: no clock, no randomness. Commands are
// judged one after the other and each has its own Result; a fence that does not
// hold refuses all of them. grant is absent where the leader itself proposes:
// only GrantHost and SetRules are taken then. Every command may be applied
// twice without harm: by client_msg_id, account key, nonce, session number or
// row number it finds that it has been here before.
//
// # Frames
//
//	call                    frame           direction         answer            meaning
//	----                    -----           ---------         ------            -------
//	Chat.Attach             attach          edge → host       Attached|Refused  take this session
//	                        detach          edge → host       none              the client is gone
//	                        request         edge → host       response          a ClientFrame, as it came
//	                        confirm         edge → host       none              device processed up to pts
//	                        fetch           edge → host       Push              send what follows this pts
//	                        Attached        host → edge                         attached; pushes begin after resume_from
//	                        response        host → edge                         a ServerFrame, for the client
//	                        Push            host → edge                         consecutive updates, encoded
//	                        Refused         host → edge                         not here, or no longer; where else
//	                        EndSession      host → edge                         close the client's connection, why
//	Chat.Relay              append          host → host       Result            append to a thread owned there
//	                        change_contact  host → host       Result.contact    request, accept, block …
//	                        read_cards      host → host       Cards             what a viewer may see of users
//	                        channel_rows    host → host       Result.counted    take the next rows of a channel
//	                        read_events     host → host       Events            rows by (thread, seq)
//	                        read_thread     host → host       Events            a page of a thread, for a member
//	                        read_user       any → host        UserInfo          profile, devices, newest pts
//	                        create_user     control → host    Result.user       give the range's next id
//	                        login_device    control → host    Result            raise the device's session number
//	                        logout_device   control → host    Result            end the device
//	                        raise_authority control → host    Result            end every older token
//	                        refresh_device  control → host    Result            rotate a refresh token; ended: it was used twice
//	                        create_live     resource → host   Result.live       give the owner's next livestream
//	                        report_live     resource → host   Result.live       what it is doing; starts and ends go to its thread
//	                        remove_live     resource → host   Result.live       one that is not on
//	                        read_live       resource → host   LiveRow           keys and state
//	                        read_members    resource → host   Members           who takes part in a thread with a user now, or why he does not
//	                        live_told       resource → host   Result            signal the count of viewers to the members
//	                        post_message    resource → host   Result.seq        send a message for a user of the range
//	Storage.Lead            propose         host → leader     Applied|Refused   commit these commands
//	                        read            host → leader     ReadResult        applied state, linearizable
//	                        Granted         leader → host                       host this range, under this name
//	                        Revoked         leader → host                       no longer
//	Storage.Raft            RaftBatch       storage → storage RaftAck           Raft messages, signs of life
//	Storage.Snapshot        SnapshotChunk   storage → storage SnapshotAck       the state of one replica
//	Storage.CreateReplica   request         control → storage reply             make the first copy of a range
//	Node.WhoHosts           request         any → cell node   Routes            who hosts these ranges
//	Node.Ranges             request         any → cell node   ReplicaStatus     the replicas here
//	Node.Sessions           request         any → cell node   SessionInfo       the sessions hosted here
//
//	command          proposed by  effect
//	-------          -----------  ------
//	AppendMessage    host         next seq of a thread; updates of its members here, channel rows to others
//	CreateUser       host         the range's next id for an account key
//	LoginDevice      host         next session number of a device; the oldest of more than 8 ends
//	LogoutDevice     host         the device ends, unless it has logged in anew
//	RaiseAuthority   host         every token given out before is void
//	RefreshDevice    host         a refresh token is followed by its successor; reuse ends the device
//	ConfirmUpdates   host         devices' marks; trims the log that all active ones have
//	MarkThread       host         a member's read mark
//	CreateLive       host         the next livestream of a user, with its keys
//	ReportLive       host         what a livestream is doing; a channel row at a start and at an end
//	RemoveLive       host         a livestream that is not on
//	ChannelRows      host         the next rows of a channel to here
//	TrimChannel      host         drops rows the destination has counted
//	GrantHost        leader       the range's host from here on
//	SetRules         leader       the rules version entries are applied by from here on
package cellpb
