//go:build !linux

package bench

func readMemory() (total, available int64, err error) { return 0, 0, errNotHere }

func readDescriptors(int) (int64, error) { return 0, errNotHere }
