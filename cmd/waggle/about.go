package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waggle-im/waggle/proto"
	clientpb "github.com/waggle-im/waggle/proto/client"
)

// ownProfile is the user's own profile.
type ownProfile struct {
	User        string `json:"user"`
	Name        string `json:"name"`
	Nick        string `json:"nick"`
	Description string `json:"description"`
	Sex         string `json:"sex"`
	Avatar      string `json:"avatar"`
	DirectFrom  string `json:"direct_from"` // anyone or friends
	Presence    bool   `json:"presence"`
}

func (a *app) profile() *cobra.Command {
	cmd := &cobra.Command{
		Use: "profile", Short: "what others see of you, and who may write to you",
		Example: "  waggle profile set --nick Annie --description 'sings alto'\n" +
			"  waggle profile set --direct-from friends    only friends may write to you\n" +
			"  waggle profile show",
	}
	return chooser(cmd, a.profileShow(), a.profileSet())
}

func (a *app) profileShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show", Short: "show your profile", Args: args(0, 0)}
	p := a.personFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.withProfile(cmd, p, (*session).ownProfile)
	}
	return cmd
}

func (s *session) ownProfile(ctx context.Context) (*clientpb.Profile, error) { return s.Profile(ctx) }

func (a *app) profileSet() *cobra.Command {
	var nick, description, sex string
	var picture avatarFlags
	direct := choice{allowed: []string{"anyone", "friends"}}
	presence := choice{allowed: []string{"on", "off"}}
	cmd := &cobra.Command{
		Use: "set", Short: "change your profile", Args: args(0, 0),
		Long: "Changes what is given; an empty text takes away. Friends are told of another\n" +
			"nick, description, sex or avatar. An avatar is drawn anew by the server as a square\n" +
			"in several sizes, from the middle of FILE or of --crop, without what else FILE says.",
		Example: "  waggle profile set --nick Annie --presence off",
	}
	p := a.personFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&nick, "nick", "", fmt.Sprintf("the `NAME` others see, at most %d bytes", proto.NickBytesMax))
	f.StringVar(&description, "description", "", fmt.Sprintf("`TEXT` about you, at most %d bytes", proto.DescriptionBytesMax))
	f.StringVar(&sex, "sex", "", fmt.Sprintf("as you write it, at most %d bytes", proto.SexBytesMax))
	f.Var(&direct, "direct-from", "who may write to you")
	f.Var(&presence, "presence", "whether friends see when you are there, last were, and write")
	picture.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := proto.CheckProfile(nick, description, sex); err != nil {
			return usagef("%w", err)
		}
		change := new(clientpb.SetProfile)
		for name, set := range map[string]func(){
			"nick":        func() { change.Nick = &nick },
			"description": func() { change.Description = &description },
			"sex":         func() { change.Sex = &sex },
			"direct-from": func() {
				change.DirectFrom = clientpb.DirectFrom(clientpb.DirectFrom_value["DIRECT_FROM_"+strings.ToUpper(direct.value)]).Enum()
			},
			"presence": func() { on := presence.value == "on"; change.Presence = &on },
		} {
			if f.Changed(name) {
				set()
			}
		}
		if err := picture.read(cmd); err != nil {
			return err
		}
		if !picture.given && change.Nick == nil && change.Description == nil && change.Sex == nil && change.DirectFrom == nil && change.Presence == nil {
			return usagef("nothing is to be set: see `%s --help`", cmd.CommandPath())
		}
		return a.withProfile(cmd, p, func(s *session, ctx context.Context) (*clientpb.Profile, error) {
			if err := picture.set(ctx, s); err != nil {
				return nil, err
			}
			return s.SetProfile(ctx, change)
		})
	}
	return cmd
}

// withProfile does something and prints the profile as it stands then.
func (a *app) withProfile(cmd *cobra.Command, p *person, do func(*session, context.Context) (*clientpb.Profile, error)) error {
	s, err := p.connect(cmd.Context(), nil)
	if err != nil {
		return err
	}
	defer s.close()
	var have *clientpb.Profile
	err = s.do(cmd.Context(), func(ctx context.Context) (err error) {
		have, err = do(s, ctx)
		return err
	})
	if err != nil {
		return err
	}
	card := cardOf(have.GetCard())
	l := ownProfile{
		User: card.User, Name: card.Name, Nick: card.Nick, Description: card.Description, Sex: card.Sex, Avatar: card.Avatar,
		DirectFrom: strings.ToLower(strings.TrimPrefix(have.GetDirectFrom().String(), "DIRECT_FROM_")), Presence: have.GetPresence(),
	}
	if p.json() {
		return printLine(a.out, l)
	}
	shown := "off"
	if l.Presence {
		shown = "on"
	}
	return printPairs(a.out, [2]string{"user", l.User}, [2]string{"name", harmless(l.Name)}, [2]string{"nick", harmless(l.Nick)},
		[2]string{"description", harmless(l.Description)}, [2]string{"sex", harmless(l.Sex)}, [2]string{"avatar", l.Avatar},
		[2]string{"direct from", l.DirectFrom}, [2]string{"presence", shown})
}

func (a *app) find() *cobra.Command {
	var limit uint32
	cmd := &cobra.Command{
		Use: "find WORD", Short: "find people by name, id, or the beginning of a name", Args: args(1, 1),
		Long: "Prints who has exactly the name or id WORD, or else everyone whose name begins\n" +
			"with it. People who block you are not found.",
		Example: "  waggle find bob\n  waggle find an --limit 50 -o json",
	}
	p := a.personFlags(cmd)
	cmd.Flags().Uint32Var(&limit, "limit", proto.PeopleDefault, fmt.Sprintf("how many people at most, up to %d", proto.PeopleMax))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		t, err := parseTarget(args[0])
		if err != nil {
			return err
		}
		if t.thread != (proto.ThreadID{}) {
			return usagef("%s is a thread: give a user name or an id", args[0])
		}
		if limit < 1 || limit > proto.PeopleMax {
			return usagef("--limit %d: from 1 to %d", limit, proto.PeopleMax)
		}
		s, err := p.connect(cmd.Context(), nil)
		if err != nil {
			return err
		}
		defer s.close()
		var cards []*clientpb.Card
		err = s.do(cmd.Context(), func(ctx context.Context) (err error) {
			cards, err = s.find(ctx, t, limit)
			return err
		})
		if err != nil {
			return err
		}
		return a.printCards(cards, p.json())
	}
	return cmd
}

// find is who has the name or id, else those whose name begins so.
func (s *session) find(ctx context.Context, t target, limit uint32) ([]*clientpb.Card, error) {
	card, err := s.FindCard(ctx, &clientpb.FindUser{Name: t.name, User: uint64(t.user)})
	if err == nil {
		return []*clientpb.Card{card}, nil
	}
	if proto.CodeOf(err) != proto.CodeUnknownUser || len(t.name) < proto.PrefixBytesMin {
		return nil, err
	}
	cards, prefixErr := s.FindPeople(ctx, t.name, limit)
	if prefixErr == nil && len(cards) == 0 || proto.CodeOf(prefixErr) == proto.CodeBadRequest {
		return nil, err // nobody, in the words of the exact search
	}
	return cards, prefixErr
}

func (a *app) printCards(cards []*clientpb.Card, json bool) error {
	for _, c := range cards {
		l := cardOf(c)
		var err error
		if json {
			err = printLine(a.out, l)
		} else {
			line := l.User + "  " + harmless(l.Name)
			if about := aboutCard(l); about != "empty" {
				line += "  " + about
			}
			if l.Relation != "none" {
				line += "  (" + strings.ReplaceAll(l.Relation, "_", " ") + ")"
			}
			_, err = fmt.Fprintln(a.out, line)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
