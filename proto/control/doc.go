// Package controlpb is what anyone asks of the control plane, and the records
// it keeps in etcd. None of it is on the message path: with all of it away,
// connected people go on chatting. This comment is the specification;
// control.proto has the fields, client/controlclient/schema.go the keys in
// etcd.
//
// # Carriage
//
// Two services over gRPC. Accounts is served on the cluster's own port, with
// mutual TLS: edges call all of it on behalf of people, cell nodes only
// FindUser. Operator is served on the admin address, which has no TLS and
// belongs on loopback or behind protection of its own.
//
// An error is a gRPC status whose details carry code, message and waiting time
// of proto/errors.go; controlclient.ToStatus and FromStatus write and read it.
//
// Any control plane answers. A caller that reaches none tries the next, so
// every call can be repeated: Login by its nonce, Logout, AddCell and
// AddAccounts by what they find done already.
//
// # Logging in
//
// [LoginRequest] has name and password. The control plane checks the password
// against SQL (at the same cost when there is no such name), lets the user's
// range raise the session number of the device, and signs a token that says
// user, device, session number and authority version, valid for 24 hours.
// The answer also names edges to connect to, the best first. The same nonce
// gives the same session, device and refresh token again; without a device a
// new one is made.
//
// What is signed is checked offline: edges hold the public keys ([KeyRecord]).
// A token is not signed before its key is published.
//
// # Registering
//
// AddAccounts is a stream: accounts go up as they come, answers come down in
// the order asked, each as it is done. One that is refused has a code in its
// own answer and does not end the stream. An account crosses two systems, so
// it is made in steps that can be repeated: a pending row in SQL with a random
// account key and a range; CreateUser in that range, which gives the same id
// for the same key; the row gets the id and becomes active. Without a password
// nobody can log in to it with one; with_token begins a session at once.
//
// # Placement
//
// AddCell registers a cell. One control plane, elected through etcd, keeps
// eight ranges open in every cell with live nodes: it takes the next range id
// and writes the [RangeRecord] in one transaction that also checks it is still
// the elected one, makes every replica (Storage.CreateReplica), and marks the
// record created. Only then do new users land there. A nearly full range gets
// a successor before it is closed. Nothing is ever moved by this.
//
// # Being there
//
// Every node writes itself twice: a lasting [NodeRecord] under nodes/, so that
// its address is known whatever happens, and one with its load under alive/,
// tied to a lease. A lapsed lease says that nobody heard of the node lately.
// It takes nothing from anybody: routes stand, addresses stay, and only a call
// that is not answered shows that a node is dead.
//
// # Calls
//
//	call                  asked by    answer            meaning
//	----                  --------    ------            -------
//	Accounts.Login        edge        LoginReply        password → token, device, edges
//	Accounts.Logout       edge        LogoutReply       end the device a token speaks for
//	Accounts.FindUser     edge, cell  FindUserReply     by exact name
//	Accounts.FindPeople   edge, cell  FindPeopleReply   active accounts by the beginning of their name
//	Accounts.SendCode     edge        SendCodeReply     mail a code, account or not
//	Accounts.Register     edge        RegisterReply     code → account, once per nonce
//	Accounts.CheckAccount edge        CheckAccountReply has an account this name and address
//	Accounts.ResetPassword edge       ResetPasswordReply code → new password, sessions ended
//	Accounts.Refresh      edge        RefreshReply      refresh token → token and successor
//	Operator.Status       operator    StatusReply       the whole cluster, and its problems
//	Operator.ListCells    operator    ListCellsReply    cells with ranges, users, headroom
//	Operator.AddCell      operator    AddCellReply      register a cell
//	Operator.ListNodes    operator    ListNodesReply    every process: roles, addresses, load
//	Operator.ListEdges    operator    ListEdgesReply    where clients connect
//	Operator.ListRanges   operator    ListRangesReply   who owns, leads and hosts each range
//	Operator.MoveRange    operator    MoveRangeReply    start the move of a range, or say what it costs
//	Operator.ListMoves    operator    ListMovesReply    moves with their state and progress
//	Operator.CancelMove   operator    MoveReply         end a move before the range changes owner
//	Operator.RevertMove   operator    MoveReply         move a range back while its old replicas are kept
//	Operator.DrainCell    operator    DrainReply        move every range of a cell away
//	Operator.RemoveCell   operator    RemoveCellReply   forget a drained cell
//	Operator.DrainNode    operator    DrainReply        move every replica of a node to others of its cell
//	Operator.Rebalance    operator    RebalanceReply    plan moves that even out load
//	Operator.RunRebalance operator    stream            make them, until people notice
//	Operator.ListAudit    operator    ListAuditReply    what operators have asked for
//	Operator.ShowUser     operator    ShowUserReply     where a user lives; sessions and devices
//	Operator.AddAccounts  operator    one per request   make accounts, in order
//
// # Records in etcd
//
//	key                       record       written by             meaning
//	---                       ------       ----------             -------
//	/waggle/v1/cells/CELL     CellRecord   control plane          a registered cell and its limits
//	/waggle/v1/nodes/NODE     NodeRecord   the node               its address; stays
//	/waggle/v1/alive/NODE     NodeRecord   the node, by lease     it lives; its load
//	/waggle/v1/ranges/RANGE   RangeRecord  elected control plane  the route table; id as 16 hex digits
//	/waggle/v1/keys/KID       KeyRecord    control plane          public key of tokens
//	/waggle/v1/moves/MOVE     MoveRecord   elected control plane  a move of a range
//	/waggle/v1/audit/TIME-N   AuditRecord  control planes         what operators asked for; the last 10,000
//	/waggle/v1/next_move      decimal      control planes         the number of the next move
//	/waggle/v1/next_range     decimal      elected control plane  the next range id to give
//	/waggle/v1/election/…                  control planes         which of them changes placement
package controlpb
