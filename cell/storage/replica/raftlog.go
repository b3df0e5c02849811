package replica

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/waggle-im/waggle/proto"
)

// raftLogger passes Raft's own log on: what it calls information is debugging
// for us, since elections are told by the Observer.
type raftLogger struct {
	logger *slog.Logger
	rng    proto.RangeID
}

func (l raftLogger) log(level slog.Level, text func() string) {
	if l.logger.Enabled(context.Background(), level) {
		l.logger.Log(context.Background(), level, "raft", "range", l.rng, "text", text())
	}
}

func (l raftLogger) Debug(v ...any) {}
func (l raftLogger) Debugf(format string, v ...any) {
}
func (l raftLogger) Info(v ...any) {
	l.log(slog.LevelDebug, func() string { return fmt.Sprint(v...) })
}
func (l raftLogger) Infof(format string, v ...any) {
	l.log(slog.LevelDebug, func() string { return fmt.Sprintf(format, v...) })
}
func (l raftLogger) Warning(v ...any) { l.Info(v...) }
func (l raftLogger) Warningf(format string, v ...any) {
	l.Infof(format, v...)
}
func (l raftLogger) Error(v ...any) {
	l.log(slog.LevelWarn, func() string { return fmt.Sprint(v...) })
}
func (l raftLogger) Errorf(format string, v ...any) {
	l.log(slog.LevelWarn, func() string { return fmt.Sprintf(format, v...) })
}

// Fatal and Panic end the group, not the process: group.guard catches them.
func (l raftLogger) Fatal(v ...any)                 { panic(fmt.Sprint(v...)) }
func (l raftLogger) Fatalf(format string, v ...any) { panic(fmt.Sprintf(format, v...)) }
func (l raftLogger) Panic(v ...any)                 { panic(fmt.Sprint(v...)) }
func (l raftLogger) Panicf(format string, v ...any) { panic(fmt.Sprintf(format, v...)) }
