package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waggle-im/waggle/client"
	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

func (a *app) friends() *cobra.Command {
	cmd := &cobra.Command{
		Use: "friends", Short: "friends, requests and blocks",
		Long: "Asks people to be friends and answers them, names contacts, and blocks whom you\n" +
			"do not want to hear from. U is a user name or an id. Two who have asked each\n" +
			"other are friends. Nobody is told that his request was put aside, or that it is\n" +
			"a block that keeps him from writing to you before he tries.",
		Example: "  waggle friends request bob --greeting 'Ann, from the choir'\n" +
			"  waggle friends requests                     who asks, and whom you have asked\n" +
			"  waggle friends accept ann --alias Annie --tag choir\n" +
			"  waggle friends ls",
	}
	ls := a.listContacts("ls", "list your friends", clientpb.Relation_RELATION_FRIEND)
	requests := a.listContacts("requests", "list requests, to you and from you", clientpb.Relation_RELATION_REQUEST_RECEIVED,
		clientpb.Relation_RELATION_REQUEST_SENT, clientpb.Relation_RELATION_REQUEST_IGNORED)
	blocked := a.listContacts("blocked", "list whom you block", clientpb.Relation_RELATION_BLOCKED)
	return chooser(cmd, ls, requests, blocked,
		a.changeContact("request", "ask U to be friends", clientpb.ContactAction_CONTACT_ACTION_REQUEST),
		a.changeContact("accept", "accept U's request", clientpb.ContactAction_CONTACT_ACTION_ACCEPT),
		a.changeContact("ignore", "put U's request aside; he is not told", clientpb.ContactAction_CONTACT_ACTION_IGNORE),
		a.setContact(),
		a.changeContact("remove", "end a friendship, or take a request back", clientpb.ContactAction_CONTACT_ACTION_REMOVE),
		a.changeContact("block", "end all and take nothing from U any more", clientpb.ContactAction_CONTACT_ACTION_BLOCK),
		a.changeContact("unblock", "take messages and requests from U again", clientpb.ContactAction_CONTACT_ACTION_UNBLOCK),
	)
}

// noteFlags are the user's own name and tags for a contact.
type noteFlags struct {
	alias string
	tags  []string
}

func (n *noteFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&n.alias, "alias", "", fmt.Sprintf("your own `NAME` for U, at most %d bytes", proto.AliasBytesMax))
	cmd.Flags().StringArrayVar(&n.tags, "tag", nil, fmt.Sprintf("your own `TAG` for U; may be given up to %d times", proto.TagsMax))
}

func (n *noteFlags) check() error {
	if err := proto.CheckNotes(n.alias, n.tags); err != nil {
		return usagef("%w", err)
	}
	return nil
}

// changeContact is a verb that changes what another person is to the user.
func (a *app) changeContact(verb, short string, action clientpb.ContactAction) *cobra.Command {
	var notes noteFlags
	var greeting string
	cmd := &cobra.Command{Use: verb + " U", Short: short, Args: args(1, 1), Example: "  waggle friends " + verb + " bob"}
	p := a.personFlags(cmd)
	switch action {
	case clientpb.ContactAction_CONTACT_ACTION_REQUEST:
		cmd.Flags().StringVar(&greeting, "greeting", "", fmt.Sprintf("`TEXT` that U reads with the request, at most %d bytes", proto.GreetingBytesMax))
		notes.add(cmd)
	case clientpb.ContactAction_CONTACT_ACTION_ACCEPT:
		notes.add(cmd)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		t, err := parseTarget(args[0])
		if err != nil {
			return err
		}
		if err := notes.check(); err != nil {
			return err
		}
		if err := proto.CheckText("greeting", greeting, proto.GreetingBytesMax); err != nil {
			return usagef("%w", err)
		}
		return a.withContact(cmd, p, t, func(ctx context.Context, s *session, user proto.EntityID) (*clientpb.Contact, error) {
			return s.ChangeContact(ctx, client.ContactChange{User: user, Action: action, Greeting: greeting, Alias: notes.alias, Tags: notes.tags})
		})
	}
	return cmd
}

func (a *app) setContact() *cobra.Command {
	var notes noteFlags
	cmd := &cobra.Command{
		Use: "set U", Short: "give U your own name and tags", Args: args(1, 1),
		Long: "Sets your own name for U and your tags for him; nobody else sees them. What is\n" +
			"not given stays. An empty --alias or --tag takes away.",
		Example: "  waggle friends set bob --alias Bobby --tag work --tag chess\n  waggle friends set bob --tag ''",
	}
	p := a.personFlags(cmd)
	notes.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		t, err := parseTarget(args[0])
		if err != nil {
			return err
		}
		setAlias, setTags := cmd.Flags().Changed("alias"), cmd.Flags().Changed("tag")
		if !setAlias && !setTags {
			return usagef("nothing is to be set: give --alias or --tag")
		}
		if len(notes.tags) == 1 && notes.tags[0] == "" {
			notes.tags = nil
		}
		if err := notes.check(); err != nil {
			return err
		}
		return a.withContact(cmd, p, t, func(ctx context.Context, s *session, user proto.EntityID) (*clientpb.Contact, error) {
			if !setAlias || !setTags {
				have, err := s.contact(ctx, user)
				if err != nil {
					return nil, err
				}
				if !setAlias {
					notes.alias = have.GetAlias()
				}
				if !setTags {
					notes.tags = have.GetTags()
				}
			}
			return s.EditContact(ctx, user, notes.alias, notes.tags)
		})
	}
	return cmd
}

// everyRelation is every relation a contact can have.
func everyRelation() []clientpb.Relation {
	return []clientpb.Relation{
		clientpb.Relation_RELATION_FRIEND, clientpb.Relation_RELATION_REQUEST_RECEIVED, clientpb.Relation_RELATION_REQUEST_SENT,
		clientpb.Relation_RELATION_REQUEST_IGNORED, clientpb.Relation_RELATION_BLOCKED,
	}
}

// contact reads one contact; nil if user is none. A page begins behind its
// cursor, which is an id.
func (s *session) contact(ctx context.Context, user proto.EntityID) (*clientpb.Contact, error) {
	q := &clientpb.ListContacts{Relations: everyRelation(), Limit: 1, Cursor: decimal(uint64(user) - 1)}
	page, _, err := s.Contacts(ctx, q)
	if err != nil || len(page) == 0 || page[0].User != uint64(user) {
		return nil, err
	}
	return page[0], nil
}

// withContact does something about the person t names and prints how the
// contact stands then.
func (a *app) withContact(cmd *cobra.Command, p *person, t target, do func(context.Context, *session, proto.EntityID) (*clientpb.Contact, error)) error {
	s, err := p.connect(cmd.Context(), nil)
	if err != nil {
		return err
	}
	defer s.close()
	user, err := s.contactOf(cmd.Context(), t)
	if err != nil {
		return err
	}
	var contact *clientpb.Contact
	err = s.do(cmd.Context(), func(ctx context.Context) (err error) {
		contact, err = do(ctx, s, user)
		return err
	})
	if err != nil {
		return err
	}
	l := personOf(contact)
	if p.json() {
		return printLine(a.out, l)
	}
	_, err = fmt.Fprintf(a.out, "%s: %s\n", l.shown(), strings.ReplaceAll(l.Relation, "_", " "))
	return err
}

// contactOf is the user that t names. Someone who blocks the user is not found
// by name, but may be among his contacts.
func (s *session) contactOf(ctx context.Context, t target) (proto.EntityID, error) {
	user, err := s.userOf(ctx, t)
	if proto.CodeOf(err) != proto.CodeUnknownUser || t.name == "" {
		return user, err
	}
	unknown := err
	err = s.eachContact(ctx, everyRelation(), func(c *clientpb.Contact) error {
		if strings.EqualFold(c.Name, t.name) {
			user = proto.EntityID(c.User)
		}
		return nil
	})
	if err == nil && user == 0 {
		err = unknown
	}
	return user, err
}

// eachContact visits the contacts of some relations, by id.
func (s *session) eachContact(ctx context.Context, relations []clientpb.Relation, visit func(*clientpb.Contact) error) error {
	for cursor := ""; ; {
		var page []*clientpb.Contact
		err := s.do(ctx, func(ctx context.Context) (err error) {
			page, cursor, err = s.Contacts(ctx, &clientpb.ListContacts{Relations: relations, Limit: proto.PageMax, Cursor: cursor})
			return err
		})
		if err != nil {
			return err
		}
		for _, c := range page {
			if err := visit(c); err != nil {
				return err
			}
		}
		if cursor == "" {
			return nil
		}
	}
}

// listContacts is a verb that lists the contacts of some relations.
func (a *app) listContacts(verb, short string, relations ...clientpb.Relation) *cobra.Command {
	cmd := &cobra.Command{Use: verb, Short: short, Args: args(0, 0)}
	p := a.personFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := p.connect(cmd.Context(), nil)
		if err != nil {
			return err
		}
		defer s.close()
		var rows []personLine
		err = s.eachContact(cmd.Context(), relations, func(c *clientpb.Contact) error {
			if p.json() {
				return printLine(a.out, personOf(c))
			}
			rows = append(rows, personOf(c))
			return nil
		})
		if err != nil || p.json() {
			return err
		}
		return printTable(a.out, rows, false, personColumns(slices.Contains(relations, clientpb.Relation_RELATION_REQUEST_SENT)))
	}
	return cmd
}

func personColumns(requests bool) []column[personLine] {
	columns := []column[personLine]{
		{title: "USER", cell: func(l personLine) string { return l.User }},
		{title: "NAME", cell: func(l personLine) string { return harmless(l.Name) }},
		{title: "ALIAS", cell: func(l personLine) string { return harmless(l.Alias) }},
		{title: "TAGS", cell: func(l personLine) string { return harmless(strings.Join(l.Tags, " ")) }},
	}
	if requests {
		return append(columns,
			column[personLine]{title: "STATE", cell: func(l personLine) string { return strings.TrimPrefix(l.Relation, "request_") }},
			column[personLine]{title: "SINCE", cell: sinceCell},
			column[personLine]{title: "GREETING", cell: func(l personLine) string { return harmless(l.Greeting) }})
	}
	return append(columns,
		column[personLine]{title: "SINCE", cell: sinceCell},
		column[personLine]{title: "CARD", cell: func(l personLine) string {
			if l.Card == nil {
				return ""
			}
			return aboutCard(*l.Card)
		}})
}

func sinceCell(l personLine) string {
	if l.timeMS == 0 {
		return ""
	}
	return time.UnixMilli(l.timeMS).Format(time.DateTime)
}
